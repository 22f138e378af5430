package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// check is one thing that the doctor looked at.
type check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Why      string `json:"why"`              // what it is for
	How      string `json:"how,omitempty"`    // what to do when it is not OK
	Detail   string `json:"detail,omitempty"` // what was found
}

// diagnosis is the JSON form of lictor doctor.
type diagnosis struct {
	OK     bool    `json:"ok"` // nothing that is required is missing
	Checks []check `json:"checks"`
}

func (a *app) doctorCommand() *cobra.Command {
	var stateDir string
	c := a.command("doctor", "say what this kernel and host lack, and how to get it",
		`Probes this kernel and host for what Lictor needs, and looks whether lictord answers and its
hook is in effect. Run it as root: other users may not probe. Exit status 1 when something
that is required is missing.`,
		func(ctx context.Context, _ []string) error {
			checks := append(a.examineHost(stateDir), a.examineDaemon(ctx)...)
			d := diagnosis{OK: true, Checks: checks}
			for _, c := range checks {
				d.OK = d.OK && (c.OK || !c.Required)
			}
			if a.json {
				if err := a.writeJSON(d); err != nil {
					return err
				}
			} else {
				a.showDiagnosis(d)
			}
			if !d.OK {
				return errQuiet
			}
			return nil
		})
	c.Flags().StringVar(&stateDir, "state-dir", cmp.Or(a.getenv("LICTOR_STATE_DIR"), defaultStateDir), "state directory of lictord")
	return c
}

// examineHost probes the kernel, and looks where lictord keeps things.
func (a *app) examineHost(stateDir string) (checks []check) {
	for _, f := range a.probe() {
		checks = append(checks, check{Name: f.Name, OK: f.Have, Required: f.Required, Why: f.Why, How: f.How, Detail: f.Err})
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	bpffs := mountPoint(string(mounts), "bpf")
	checks = append(checks, check{
		Name: "bpffs mounted", OK: err == nil && bpffs != "", Detail: bpffs,
		Why: "pins keep the hook when the daemon is gone", How: "lictord mounts it; or: mount -t bpf bpf /sys/fs/bpf",
	})
	danger, err := volatile(stateDir)
	if err != nil {
		danger = err.Error()
	}
	run := filepath.Dir(a.socket)
	return append(checks, check{
		Name: "state directory", OK: danger == "", Detail: join(stateDir, danger),
		Why: "the journal must outlive the daemon and a power cut", How: "set --state-dir to a directory on a local disk",
	}, check{
		Name: "secrets in memory", OK: inMemory(run), Detail: run,
		Why: "proxies' tokens and keys must not outlive a power cut", How: "set --socket to a path below /run or another tmpfs: secrets are kept beside it",
	})
}

// fileSystem is the magic number of a directory's file system. Of one that is yet
// to be made, its nearest parent is asked.
func fileSystem(dir string) (uint32, error) {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	for errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &fs)
	}
	if err != nil {
		return 0, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	return uint32(fs.Type), nil // whatever the field's width and sign
}

func inMemory(dir string) bool {
	kind, err := fileSystem(dir)
	return err == nil && (kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC)
}

// volatile says why a journal should not be kept in a directory, "" when it may.
func volatile(dir string) (string, error) {
	kind, err := fileSystem(dir)
	if err != nil {
		return "", err
	}
	switch kind {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "it is in memory, a reboot loses every assignment", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "it is a container's own layer, lost with the container", nil
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.V9FS_MAGIC:
		return "it is on a network, where locks and mapped files are not to be trusted", nil
	}
	return "", nil
}

// examineDaemon asks lictord. That it is not there yet is no fault of the host.
func (a *app) examineDaemon(ctx context.Context) []check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answers := check{Name: "lictord", Why: "assigns servers and keeps the journal"}
	status, err := ask(a, func(c *v1.Client) (v1.Status, error) { return c.Status(ctx) })
	if err != nil {
		var absent *v1.ConnectError
		answers.Detail, answers.How = err.Error(), "see lictord's log"
		if errors.As(err, &absent) {
			answers.Detail = fmt.Sprintf("nobody answers at %s", absent.Socket)
			answers.How = "start lictord, or set --socket to where it listens"
		}
		return []check{answers}
	}
	answers.OK, answers.Detail = true, fmt.Sprintf("%s, process %d", status.Version, status.PID)
	// With a daemon there, a hook that is not in effect is a fault.
	hook := check{
		Name: "hook in effect", OK: status.Attachment.InEffect, Required: true,
		Why: "redirects connects to VIPs", How: "see lictor status and lictord's log", Detail: a.hookText(status.Attachment),
	}
	ready := check{
		Name: "ready", OK: status.Ready, Why: "all of lictord works", How: strings.Join(status.Problems, " "),
	}
	return []check{answers, hook, ready}
}

func (a *app) showDiagnosis(d diagnosis) {
	t := table{heads: []string{"RESULT", "CHECK", "FOUND", "FOR"}}
	for _, c := range d.Checks {
		t.add(c.verdict(), c.Name, c.Detail, c.Why)
	}
	t.print(a.stdout)
	a.printf("\n")
	missing := 0
	for _, c := range d.Checks {
		if c.OK {
			continue
		}
		if c.Required {
			missing++
		}
		if c.How != "" {
			a.printf("%s: %s\n", clean(c.Name), clean(c.How))
		}
	}
	if d.OK {
		a.printf("This host has all that Lictor requires.\n")
		return
	}
	a.printf("This host lacks %s that Lictor requires.\n", count(missing, "thing", "things"))
}

func (c check) verdict() string {
	switch {
	case c.OK:
		return "ok"
	case c.Required:
		return "MISSING"
	}
	return "no"
}

// mountPoint finds where a file system of a type is mounted, "" for nowhere.
func mountPoint(mounts, fstype string) string {
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == fstype {
			return fields[1]
		}
	}
	return ""
}
