package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// defaultStateDir is lictord's.
const defaultStateDir = "/var/lib/lictor"

// journalApp is the journal commands' part of the command line.
type journalApp struct {
	*app
	dir string // --state-dir
}

func (a *app) journalCommand() *cobra.Command {
	j := &journalApp{app: a}
	c := a.group("lictor journal", "check, read and recover the journal",
		`Works on the journal's file. While lictord runs it alone has the file: export and state are
then asked of lictord; verify and recover need it stopped, which no proxy notices: redirects
go on in the kernel.`)
	c.Use = "journal"
	c.PersistentFlags().StringVar(&j.dir, "state-dir", cmp.Or(a.getenv("LICTOR_STATE_DIR"), defaultStateDir),
		"state directory of lictord, or a copy of its "+journal.FileName)
	c.AddCommand(j.verifyCommand(), j.exportCommand(), j.stateCommand(), j.recoverCommand())
	return c
}

// stopFirst says what to do about a journal that lictord has open; the error
// itself would only say so again.
func (j *journalApp) stopFirst(err error, command string) error {
	if errors.Is(err, journal.ErrLocked) {
		return fmt.Errorf("lictord has the journal in %s open; stop it, redirects go on in the kernel meanwhile, "+
			"and run lictor journal %s again", j.dir, command)
	}
	return absent(err)
}

// absent says what to do about a journal that is not there, or not for us.
func absent(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; set --state-dir to lictord's", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run it as root", err)
	}
	return err
}

func (j *journalApp) verifyCommand() *cobra.Command {
	return j.command("verify", "check every event, checksum and snapshot of the journal",
		`Checks all there is to check, changes nothing, and names what is damaged by sequence
number. Exit status 1 when something is.`,
		func(ctx context.Context, _ []string) error {
			progress := j.progress("verifying")
			report, err := journal.Verify(ctx, j.dir, progress.at)
			progress.end()
			if err != nil && !errors.Is(err, journal.ErrDamaged) {
				return j.stopFirst(err, "verify")
			}
			if j.json {
				if err := j.writeJSON(verdictOf(report, err)); err != nil {
					return err
				}
			} else {
				j.showReport(report, err)
			}
			if err != nil {
				return errQuiet
			}
			return nil
		})
}

// verdict is the JSON form of lictor journal verify.
type verdict struct {
	OK        bool     `json:"ok"`
	Path      string   `json:"path"`
	UUID      string   `json:"uuid"`
	Bytes     int64    `json:"bytes"`
	First     uint64   `json:"first"`
	Last      uint64   `json:"last"`
	Snapshots []uint64 `json:"snapshots"`
	Damage    []string `json:"damage"`
	More      int      `json:"more_damage,omitempty"` // parts beyond those listed
}

func verdictOf(r journal.Report, err error) verdict {
	v := verdict{
		OK: err == nil, Path: r.Path, UUID: r.Meta.UUID, Bytes: r.Bytes, First: r.First, Last: r.Last,
		Snapshots: append([]uint64{}, r.Snapshots...), Damage: damageTexts(r.Damage), More: r.More,
	}
	return v
}

func damageTexts(damage []journal.Damage) []string {
	texts := make([]string, len(damage))
	for i, d := range damage {
		texts[i] = d.Error()
	}
	return texts
}

func (j *journalApp) showReport(r journal.Report, err error) {
	if err == nil {
		j.printf("sound: %s\n", clean(r.Path))
	} else {
		j.printf("DAMAGED: %s\n", clean(r.Path))
		for _, text := range damageTexts(r.Damage) {
			j.printf("  %s\n", clean(text))
		}
		if r.More > 0 {
			j.printf("  and %d more\n", r.More)
		}
		j.printf("  lictor journal recover writes what is whole to a new file\n")
	}
	j.printf("\njournal    %s, %s\n", cmp.Or(clean(r.Meta.UUID), "of unknown identity"), size(r.Bytes))
	if r.Events() > 0 && !r.FirstTime.IsZero() {
		j.printf("events     %d to %d, %s to %s\n", r.First, r.Last, j.clock(r.FirstTime), j.clock(r.LastTime))
	} else {
		j.printf("events     none\n")
	}
	j.printf("snapshots  %d\n", len(r.Snapshots))
}

func (j *journalApp) exportCommand() *cobra.Command {
	var out string
	c := j.command("export", "write every event that is kept as a line of JSON", "",
		func(ctx context.Context, _ []string) error {
			if out == "" {
				return j.export(ctx, j.stdout)
			}
			return replaceFile(out, func(f *os.File) error { return j.export(ctx, f) })
		})
	c.Flags().StringVarP(&out, "output", "o", "", "write to this file instead of stdout")
	return c
}

// export reads the file or, while lictord has it, asks lictord.
func (j *journalApp) export(ctx context.Context, w io.Writer) error {
	progress := j.progress("reading")
	defer progress.end()
	file, err := journal.OpenReadOnly(ctx, j.dir, journal.Options{Progress: progress.at})
	if errors.Is(err, journal.ErrLocked) {
		return j.exportOnline(ctx, w)
	}
	if err != nil {
		return absent(err)
	}
	return errors.Join(file.Export(w), file.Close())
}

func (j *journalApp) exportOnline(ctx context.Context, w io.Writer) error {
	progress := j.progress("reading from lictord")
	defer progress.end()
	out := &counted{w: w}
	app := *j.app
	app.stdout = out
	return j.readJournal(ctx, 0, func(event v1.JournalEvent) error {
		progress.at(out.n, 0)
		return app.writeLine(event)
	})
}

// counted counts the bytes written.
type counted struct {
	w io.Writer
	n int64
}

// Write writes and counts.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (j *journalApp) recoverCommand() *cobra.Command {
	var out string
	c := j.command("recover", "write what a damaged journal still holds to a new file",
		`Writes the longest part of the journal that is whole to a new file, and says what is lost
and how to put the new file in place. The damaged one is not changed.`,
		func(ctx context.Context, _ []string) error {
			if out == "" {
				out = filepath.Join(j.dir, journal.FileName+".recovered")
				if info, err := os.Stat(j.dir); err == nil && !info.IsDir() {
					out = j.dir + ".recovered"
				}
			}
			progress := j.progress("recovering")
			saved, err := journal.Recover(ctx, j.dir, out, progress.at)
			progress.end()
			if errors.Is(err, journal.ErrDamaged) {
				return fmt.Errorf("%w; nothing can be saved: move the file away, start lictord, and register the proxies anew", err)
			}
			if err != nil {
				return j.stopFirst(err, "recover")
			}
			if j.json {
				return j.writeJSON(recoveredOf(saved, out))
			}
			j.showRecovery(saved, out)
			return nil
		})
	c.Flags().StringVarP(&out, "output", "o", "", "the new file (default: beside the journal, "+journal.FileName+".recovered)")
	return c
}

// recovered is the JSON form of lictor journal recover.
type recovered struct {
	Path     string   `json:"path"`
	UUID     string   `json:"uuid"`
	First    uint64   `json:"first"`
	Last     uint64   `json:"last"`
	Salvaged int      `json:"salvaged"`
	Lost     []string `json:"lost"`
	Damage   []string `json:"damage"`
}

func recoveredOf(r journal.Recovery, path string) recovered {
	return recovered{
		Path: path, UUID: r.Meta.UUID, First: r.First, Last: r.Last, Salvaged: r.Salvaged,
		Lost: damageTexts(r.Lost), Damage: damageTexts(r.Damage),
	}
}

func (j *journalApp) showRecovery(r journal.Recovery, path string) {
	j.printf("saved %s (%d to %d) to %s\n", count(r.Last+1-r.First, "event", "events"), r.First, r.Last, clean(path))
	if r.Salvaged > 0 {
		j.printf("  %d of them were found on pages no longer in use\n", r.Salvaged)
	}
	for _, text := range damageTexts(r.Lost) {
		j.printf("  %s\n", clean(text))
	}
	j.printf("to use it: stop lictord, keep the damaged %s under another name, move the new file to its name, start lictord\n",
		journal.FileName)
}

func (j *journalApp) stateCommand() *cobra.Command {
	var at string
	c := j.command("state [PROXY]", "show the state at a past sequence number or time",
		`Shows servers and proxies, or one of them, as they were after an event, given by its sequence
number, or at a time: "2026-03-01 12:00" or "03:12" in local time, as RFC 3339 has it, or
"90m" for so long ago. Times are shown in local time; --json has UTC.`,
		func(ctx context.Context, args []string) error {
			when, err := j.parseMoment(at)
			if err != nil {
				return usageError{err}
			}
			s, err := j.stateAt(ctx, when)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return j.showProxyOf(s, args[0])
			}
			if j.json {
				return j.writeJSON(s)
			}
			j.showState(s)
			return nil
		})
	c.ValidArgsFunction = j.completeProxies
	c.Flags().StringVar(&at, "at", "", "sequence number or time (required)")
	return c
}

// stateAt reads the file or, while lictord has it, asks lictord.
func (j *journalApp) stateAt(ctx context.Context, when moment) (state.State, error) {
	progress := j.progress("reading")
	defer progress.end()
	file, err := journal.OpenReadOnly(ctx, j.dir, journal.Options{Progress: progress.at})
	if errors.Is(err, journal.ErrLocked) {
		return j.stateOnline(ctx, when)
	}
	if err != nil {
		return state.State{}, absent(err)
	}
	var s state.State
	if when.bySeq {
		s, err = file.StateAtSeq(ctx, when.seq)
	} else {
		s, err = file.StateAtTime(ctx, when.time)
	}
	return s, errors.Join(err, file.Close())
}
