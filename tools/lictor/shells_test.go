package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// shell is how one of the shells is had to read a file when it starts.
type shell struct {
	rc   string   // below the home directory
	text string   // what it says there
	args []string // that make it interactive
}

// In each shell, at a terminal, the tab key completes commands and, as lictord
// says, ids: also those with a colon, at which bash splits words.
func TestCompletionInShells(t *testing.T) {
	for name, sh := range map[string]shell{
		"bash": {".bashrc", "PS1='ready> '\nsource <(lictor completion bash)\n", []string{"--noprofile", "-i"}},
		"zsh": {".zshrc", "PS1='ready> '\nautoload -U compinit\ncompinit -D -u\nsource <(lictor completion zsh)\n",
			[]string{"-o", "no_global_rcs", "-i"}},
		"fish": {".config/fish/config.fish", "function fish_prompt; echo 'ready> '; end\nset fish_greeting\nlictor completion fish | source\n",
			[]string{"-i"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(name)
			if err != nil {
				testenv.Lacks(t, fmt.Sprintf("needs %s: run make shells", name))
			}
			socket, asked := serveIDs(t)
			terminal := openShell(t, exec.Command(path, sh.args...), sh, socket)
			for typed, want := range map[string]string{
				"lictor dereg\tlon\t\n":             "DELETE /v1/proxies/lonely",
				"lictor deregister a:b:w\t\n":       "DELETE /v1/proxies/a:b:web",
				"lictor dr\tconsul-1\t --no-wait\n": "POST /v1/servers/consul-1.dc1/drain",
			} {
				terminal.await(t, "ready> ")
				if _, err := terminal.WriteString(typed); err != nil {
					t.Fatal(err)
				}
				select {
				case got := <-asked:
					if got != want {
						t.Errorf("%q asked lictord for %s, want %s; the terminal shows:\n%q", typed, got, want, terminal.shown())
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%q asked lictord for nothing; the terminal shows:\n%q", typed, terminal.shown())
				}
			}
		})
	}
}

// serveIDs is a lictord that knows some ids; what else it is asked for it tells.
func serveIDs(t *testing.T) (socket string, asked <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan string, 8)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			changes <- r.Method + " " + r.URL.Path
		case r.URL.Path == "/v1/proxies":
			fmt.Fprint(w, `{"proxies":[{"proxy_id":"lonely"},{"proxy_id":"a:b:web"}]}`)
		default:
			fmt.Fprint(w, `{"servers":[{"id":"consul-1.dc1"},{"id":"other"}]}`)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return socket, changes
}

// pty is a terminal with a program on it, as its user has it.
type pty struct {
	*os.File
	read chan []byte // what the program writes, until it closes
	all  []byte
	seen int // how much of all has been waited for
}

// openShell starts a shell on a terminal of its own, ended with the test.
func openShell(t *testing.T, c *exec.Cmd, sh shell, socket string) *pty {
	t.Helper()
	home := t.TempDir()
	rc := filepath.Join(home, sh.rc)
	// Without the second directory fish would begin by reading all manual pages.
	for _, dir := range []string{filepath.Dir(rc), filepath.Join(home, ".local/share/fish/generated_completions")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(rc, []byte(sh.text), 0o600); err != nil {
		t.Fatal(err)
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() }) // again, unless this fails below
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		t.Fatal(err)
	}
	c.Dir, c.Stdin, c.Stdout, c.Stderr = home, slave, slave, slave
	c.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm", "LICTOR_SOCKET=" + socket}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	terminal := &pty{File: master, read: make(chan []byte)}
	go func() {
		defer close(terminal.read)
		for {
			chunk := make([]byte, 4096)
			n, err := master.Read(chunk)
			if err != nil {
				return // no program has it open any more
			}
			terminal.read <- chunk[:n]
		}
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()   // killed
		master.Close() // which hangs up whatever the shell has started
		for range terminal.read {
		}
	})
	return terminal
}

// await waits until the program has written a text since the last time.
func (p *pty) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		if at := bytes.Index(p.all[p.seen:], []byte(text)); at >= 0 {
			p.seen += at + len(text)
			return
		}
		select {
		case chunk, open := <-p.read:
			if !open {
				t.Fatalf("it has ended; the terminal shows:\n%q", p.shown())
			}
			p.all = append(p.all, chunk...)
		case <-limit:
			t.Fatalf("%q does not come; the terminal shows:\n%q", text, p.shown())
		}
	}
}

// shown is all that the program wrote so far.
func (p *pty) shown() string {
	for {
		select {
		case chunk, open := <-p.read:
			if open {
				p.all = append(p.all, chunk...)
				continue
			}
		case <-time.After(100 * time.Millisecond):
		}
		return strings.ToValidUTF8(string(p.all), "?")
	}
}
