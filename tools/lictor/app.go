package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // refused or failed
	exitUsage  = 2 // the command line is wrong
)

// usageError is a wrong command line that only the command itself could see.
type usageError struct{ error }

// errQuiet fails a command that has said everything on stdout already.
var errQuiet = errors.New("said on stdout")

// app is one run of the command line.
type app struct {
	environment
	socket  string        // --socket
	json    bool          // --json
	started bool          // the command line was right and a command runs
	quiet   time.Duration // that lictord may say nothing in the middle of an answer; 0: quietAtMost
}

// run is lictor: it returns the exit status.
func run(ctx context.Context, env environment, args []string) int {
	out := &sink{w: env.stdout}
	env.stdout = out
	a := &app{environment: env}
	root := a.root()
	root.SetArgs(twoDashes(root, args))
	root.SetOut(a.stdout)
	root.SetErr(env.stderr)
	err := cmp.Or(root.ExecuteContext(ctx), out.err)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errQuiet):
		return exitFailed
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	fmt.Fprintf(env.stderr, "lictor: %s\n", clean(strings.ReplaceAll(err.Error(), "\n", "; ")))
	if !a.started && out.err == nil || errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// root is the tree of commands.
func (a *app) root() *cobra.Command {
	root := a.group("lictor", "Consul's service mesh with one daemon per host",
		`lictor asks lictord, the daemon on this host, and looks after its journal and its
hook in the kernel. Tables are for people, --json is for programs.

Exit status: 0; 1 for what was refused or failed; 2 for a wrong command line.`)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentPreRun = func(*cobra.Command, []string) { a.socket = cmp.Or(a.socket, v1.DefaultSocket) }
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"}) // --help is enough
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// That a number is wanted needs no name of a Go function.
		if number := (*strconv.NumError)(nil); errors.As(err, &number) {
			err = errors.New(strings.TrimSuffix(err.Error(), number.Error()) + number.Err.Error())
		}
		return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", cmp.Or(a.getenv("LICTOR_SOCKET"), v1.DefaultSocket),
		"unix socket of lictord; LICTOR_SOCKET in the environment sets it too")
	flags.BoolVar(&a.json, "json", false, "write JSON, for programs")
	root.AddCommand(
		a.registerCommand(), a.deregisterCommand(), a.proxiesCommand(), a.bootstrapCommand(), a.historyCommand(),
		a.execCommand(),
		a.serversCommand(), a.drainCommand(), a.undrainCommand(), a.fleetCommand(),
		a.statusCommand(), a.eventsCommand(),
		a.journalCommand(), a.doctorCommand(), a.unloadCommand(), a.versionCommand(), a.completionCommand(),
	)
	return root
}

// group is a command that only has others below it.
func (a *app) group(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%s needs a command; %s --help lists them", c.CommandPath(), c.CommandPath())
			}
			hint := ""
			c.SuggestionsMinimumDistance = 2
			if like := c.SuggestionsFor(args[0]); len(like) > 0 {
				hint = fmt.Sprintf(" Did you mean %s?", strings.Join(like, " or "))
			}
			return fmt.Errorf("%s has no command %q; %s --help lists them.%s", c.CommandPath(), args[0], c.CommandPath(), hint)
		},
	}
}

// command is one that does something. args says what it needs, in the words of
// its usage line: names in brackets may be left out.
func (a *app) command(use, short, long string, do func(ctx context.Context, args []string) error) *cobra.Command {
	words := strings.Fields(use)[1:]
	need := 0
	for _, word := range words {
		if !strings.HasPrefix(word, "[") {
			need++
		}
	}
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) < need:
				return fmt.Errorf("%s needs %s; see %s --help", c.CommandPath(), words[len(args)], c.CommandPath())
			case len(args) > len(words):
				return fmt.Errorf("%s takes no %q; see %s --help", c.CommandPath(), args[len(words)], c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			a.started = true
			return do(c.Context(), args)
		},
	}
}

// checkID refuses an id that the daemon would refuse.
func checkID(what, id string) error {
	if err := v1.CheckID(what, id); err != nil {
		return usageError{err}
	}
	return nil
}

// writeJSON writes a value for programs.
func (a *app) writeJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writeLine writes a value as a line of a stream, for programs.
func (a *app) writeLine(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// printf writes for people. That it could not be written is said at the end.
func (a *app) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stdout, format, args...)
}

// sink is stdout, and its first error: what is half written must not look whole.
type sink struct {
	w   io.Writer
	err error
}

// Write writes, unless a write has failed.
func (s *sink) Write(b []byte) (n int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	if n, err = s.w.Write(b); err != nil {
		s.err = fmt.Errorf("write the output: %w", err)
	}
	return n, s.err
}

// isTerminal says whether a file is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
