package bed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command says what to run on a node.
type Command struct {
	Name string   // for logs and errors; default: the last element of Path
	Path string   // absolute, or found on PATH
	Args []string // without the program
	Env  []string // added to this process's; the last of a name wins
	// Argv0 replaces the program's name when not empty.
	Argv0 string
	// Cgroup is the directory of the cgroup to start in; default: the node's.
	Cgroup string
	// Files are seen by the process in the place of others: path to the file
	// that stands there. Host and process see the rest alike.
	Files map[string]string
	// UID and GID of the process, both the UID when GID is 0; 0 is root.
	UID, GID uint32
	// Stdin and Stdout replace /dev/null and the log when not nil.
	Stdin  io.Reader
	Stdout io.Writer
}

// Process is a program that was started on a node. Its methods may be called
// concurrently.
type Process struct {
	Name string
	Node *Node
	Log  string // path of standard output and error

	cmd  *exec.Cmd
	done chan struct{} // closed once it was reaped
	err  error         // of Wait; read after done
}

// Start runs a command in the node's network namespace and cgroup. It is part
// of them from its first instruction on.
func (n *Node) Start(c Command) (*Process, error) {
	if c.Name == "" {
		c.Name = c.Path[bytes.LastIndexByte([]byte(c.Path), '/')+1:]
	}
	if c.Cgroup == "" {
		c.Cgroup = n.Cgroup
	}
	p := &Process{Name: n.Name + "/" + c.Name, Node: n, Log: n.logPath(c.Name), done: make(chan struct{})}
	log, err := os.Create(p.Log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close() // the process has its own
	cgroup, err := os.Open(c.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer cgroup.Close()

	p.cmd = exec.Command(c.Path, c.Args...)
	if c.Argv0 != "" {
		p.cmd.Args[0] = c.Argv0
	}
	p.cmd.Dir = n.Dir
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdin, log, log
	if c.Stdout != nil {
		p.cmd.Stdout = c.Stdout
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true,
		CgroupFD:    int(cgroup.Fd()),
		Setsid:      true, // Ctrl-C is for the bed alone, which decides what ends when
	}
	if c.UID != 0 {
		if c.GID == 0 {
			c.GID = c.UID
		}
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
	}
	// A child is born in the namespaces of the thread that forks it.
	err = n.Netns.Do(func() error {
		if err := replaceFiles(c.Files); err != nil {
			return err
		}
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.bed.register(p)
	return p, nil
}

// replaceFiles mounts files over others in a mount namespace of the calling
// thread's own, which must not be used for anything else afterwards. What is
// mounted outside later is seen in it, such as namespaces of new pods.
func replaceFiles(files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from leaving: %w", err)
	}
	for path, file := range files {
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("put %s in the place of %s: %w", file, path, err)
		}
	}
	return nil
}

// Run starts a command, waits for its end or the context's, and returns its
// standard output. The error of a command that failed has the end of its log.
func (n *Node) Run(ctx context.Context, c Command) ([]byte, error) {
	var out bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &out
	}
	p, err := n.Start(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("run %s: %w", p.Name, context.Cause(ctx)), p.Kill())
	}
	if p.err != nil {
		return out.Bytes(), fmt.Errorf("run %s: %w: %s", p.Name, p.err, p.Tail(2000))
	}
	// Many may be run; only those that went wrong are of interest later.
	n.bed.forget(p)
	return out.Bytes(), os.Remove(p.Log)
}

// PID is the process's id, also after its end.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive tells whether the process has not ended yet; a stopped one has not.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal; to a process that has ended it is an error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill sends SIGKILL and returns when the process has ended. Killing a process
// that has ended is success.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// Stop freezes the process by SIGSTOP: its sockets stay open, nobody answers.
func (p *Process) Stop() error { return p.Signal(syscall.SIGSTOP) }

// Cont lets a stopped process go on.
func (p *Process) Cont() error { return p.Signal(syscall.SIGCONT) }

// Term sends SIGTERM and waits for the end; the error of a process that ended
// badly is returned.
func (p *Process) Term(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("terminate %s: %w", p.Name, err)
	}
	return p.Wait(ctx)
}

// Wait waits for the end and returns its error, as exec.Cmd.Wait does.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, context.Cause(ctx))
	}
}

// Tail is the end of the process's log, at most n bytes.
func (p *Process) Tail(n int) string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-n):]))
}

// EndedError says that a process which something was expected of has ended.
type EndedError struct {
	Process string
	Err     error  // of its end, nil for exit status 0
	Log     string // its end
}

func (e *EndedError) Error() string {
	return fmt.Sprintf("%s has ended: %v: %s", e.Process, e.Err, e.Log)
}

func (e *EndedError) Unwrap() error { return e.Err }

// ended is an *EndedError for a process that has.
func (p *Process) ended() error {
	if p.Alive() {
		return nil
	}
	return &EndedError{Process: p.Name, Err: p.err, Log: p.Tail(2000)}
}

// Logs returns name and end of the log of every process that was started.
func (b *Bed) Logs(n int) map[string]string {
	b.mu.Lock()
	processes := slices.Clone(b.processes)
	b.mu.Unlock()
	logs := map[string]string{}
	for _, p := range processes {
		if text := p.Tail(n); text != "" {
			logs[p.Name] = text
		}
	}
	return logs
}

// pollEvery is how long waits sleep between two looks, short against what
// tests measure.
const pollEvery = 20 * time.Millisecond

// pause sleeps for one poll and tells whether the context lasts.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollEvery):
		return true
	}
}
