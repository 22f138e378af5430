package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// ErrNone is returned by Find and Start when there is no Chromium.
var ErrNone = errors.New("no chromium: run `make browser`, or name one in CHROMIUM")

// Find gives the path of a Chromium: CHROMIUM in the environment, else
// chromium on PATH.
func Find() (string, error) {
	name := os.Getenv("CHROMIUM")
	if name == "" {
		name = "chromium"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNone, err)
	}
	return path, nil
}

// flags keep Chromium to itself: no sandbox (tests run as root), no requests
// but the page's, and the same pictures on every machine.
var flags = []string{
	"--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
	"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
	"--disable-quic", "--disable-extensions", "--no-default-browser-check", "--metrics-recording-only",
	"--no-proxy-server", "--force-color-profile=srgb", "--font-render-hinting=none", "--hide-scrollbars",
	"--disable-features=Translate,OptimizationHints,MediaRouter", "--lang=en",
}

// Browser is a running Chromium. It is safe for concurrent use.
type Browser struct {
	cmd     *exec.Cmd
	profile string
	to      *os.File
	from    *os.File
	said    *tail
	done    chan struct{} // closed when the pipe has ended

	mu      sync.Mutex
	last    int64
	pending map[int64]chan answer // each buffered for one
	tabs    map[string]*Tab       // by session
}

// message is one of the protocol, in either direction.
type message struct {
	ID      int64           `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

type answer struct {
	result json.RawMessage
	err    error
}

// Start starts a browser. The caller closes it.
func Start(ctx context.Context) (*Browser, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	profile, err := os.MkdirTemp("", "lictor-browser-*")
	if err != nil {
		return nil, fmt.Errorf("make the browser's profile: %w", err)
	}
	b := &Browser{
		profile: profile, said: &tail{}, done: make(chan struct{}),
		pending: map[int64]chan answer{}, tabs: map[string]*Tab{},
	}
	if err := b.start(path); err != nil {
		return nil, errors.Join(err, os.RemoveAll(profile))
	}
	go b.read()
	if err := b.call(ctx, "", "Browser.getVersion", nil, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), b.Close())
	}
	return b, nil
}

func (b *Browser) start(path string) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	back, answers, err := os.Pipe()
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	defer answers.Close()
	b.to, b.from = ours, back
	b.cmd = exec.Command(path, append(flags, "--user-data-dir="+b.profile, "about:blank")...)
	b.cmd.ExtraFiles = []*os.File{theirs, answers} // 3 and 4, as the flag says
	b.cmd.Stderr = b.said
	b.cmd.Env = append(os.Environ(), "TZ=UTC", "HOME="+b.profile)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it ends by itself when the pipe does
	if err := b.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", path, err), ours.Close(), back.Close())
	}
	return nil
}

// Close ends the browser and removes its profile.
func (b *Browser) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = b.call(ctx, "", "Browser.close", nil, nil) // or it is killed
	select {
	case <-b.done:
	case <-ctx.Done():
	}
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // its children too
	err := b.to.Close()
	_ = b.cmd.Wait() // says that it was killed
	<-b.done
	err = errors.Join(err, b.from.Close())
	for range 50 { // the last of its children may still write
		if os.RemoveAll(b.profile) == nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, os.RemoveAll(b.profile))
}

// read takes messages, which end with a zero byte, until the pipe ends.
func (b *Browser) read() {
	defer close(b.done)
	in := bufio.NewReaderSize(b.from, 1<<20)
	for {
		raw, err := in.ReadBytes(0)
		if err != nil {
			b.fail(err)
			return
		}
		var m struct {
			message
			Params json.RawMessage `json:"params"`
		}
		if err := json.Unmarshal(bytes.TrimSuffix(raw, []byte{0}), &m); err != nil {
			b.fail(fmt.Errorf("decode what the browser says: %w", err))
			return
		}
		b.mu.Lock()
		waits, tab := b.pending[m.ID], b.tabs[m.Session]
		delete(b.pending, m.ID)
		b.mu.Unlock()
		switch {
		case waits != nil && m.Error != nil:
			waits <- answer{err: errors.New(m.Error.Message)}
		case waits != nil:
			waits <- answer{result: m.Result}
		case tab != nil && m.Method != "":
			tab.heard(m.Method, m.Params)
		}
	}
}

// fail answers all who wait.
func (b *Browser) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the browser has ended: %s", b.said)
	}
	for id, waits := range b.pending {
		waits <- answer{err: err}
		delete(b.pending, id)
	}
}

// call makes one call of the protocol.
func (b *Browser) call(ctx context.Context, session, method string, params, result any) error {
	waits := make(chan answer, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.pending[id] = waits
	b.mu.Unlock()
	text, err := json.Marshal(message{ID: id, Session: session, Method: method, Params: params})
	if err == nil {
		// Not under the lock: while the pipe is full, what comes back must be read.
		_, err = b.to.Write(append(text, 0))
	}
	if err != nil {
		b.mu.Lock()
		delete(b.pending, id)
		b.mu.Unlock()
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	case <-b.done:
		select {
		case a := <-waits:
			return fmt.Errorf("%s: %w", method, a.err)
		default:
			return fmt.Errorf("%s: the browser has ended: %s", method, b.said)
		}
	case a := <-waits:
		if a.err != nil {
			return fmt.Errorf("%s: %w", method, a.err)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.result, result)
	}
}

// tail keeps the end of what the browser complains about.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write keeps the last bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - 4096; over > 0 {
		t.text = t.text[over:]
	}
	return len(p), nil
}

// String is what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
