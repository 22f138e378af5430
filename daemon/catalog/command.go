package catalog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Bounds of what a command says, in bytes: a thousand addresses, and the beginning
// of a complaint.
const (
	maxOutput    = 64 << 10
	maxComplaint = 1 << 10
)

// runCommand runs the operator's command, without a shell, for at most so long,
// and reads addresses from its standard output: IP addresses and DNS names, with
// white space or commas between them. It fails when its status is not 0.
func runCommand(ctx context.Context, words []string, limit time.Duration) ([]host, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	stdout, stderr := beginning{most: maxOutput}, beginning{most: maxComplaint}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// What a script has started ends with it, or each try would leave some more.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.Cancel, cmd.WaitDelay = kill, time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = kill() // it has ended, and others hold its output open
	}
	problem := func(format string, args ...any) error {
		return &Problem{
			Sentence: fmt.Sprintf("the command of --consul-addresses, %s, %s", words[0], fmt.Sprintf(format, args...)),
			Err:      err,
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, problem("has not ended after %v: run it by hand to see why", limit)
	case err != nil:
		said, _, _ := strings.Cut(strings.TrimSpace(stderr.text.String()), "\n")
		return nil, problem("fails (%v) and says %s: run it by hand to see why", err, cmp.Or(said, "nothing"))
	case stdout.cut:
		return nil, problem("prints more than %d kB: it is to print IP addresses or DNS names", maxOutput>>10)
	}
	hosts, err := parseOutput(stdout.text.String())
	if err != nil {
		return nil, problem("prints no addresses: %v; it is to print IP addresses or DNS names", err)
	}
	return hosts, nil
}

// beginning keeps the first bytes of what is written to it, and takes the rest.
type beginning struct {
	most int
	text bytes.Buffer
	cut  bool // there was more
}

// Write never fails: a command is not to end for what it says.
func (b *beginning) Write(p []byte) (int, error) {
	room := min(len(p), b.most-b.text.Len())
	b.text.Write(p[:room])
	b.cut = b.cut || room < len(p)
	return len(p), nil
}
