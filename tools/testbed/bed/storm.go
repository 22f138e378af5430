package bed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

// StormOptions of a storm.
type StormOptions struct {
	To      []netip.AddrPort // in turn
	Workers int              // connecting at the same time; default 4
	// Banner waits for the first bytes from whoever was reached and counts them:
	// a listener that says its name shows who was connected to.
	Banner bool
	// Abort ends connections by a reset, which leaves no TIME_WAIT behind: for
	// storms of more than some 20,000 connects to one server in a minute.
	Abort bool
	// Pause of each worker after each connect; default none.
	Pause time.Duration
}

// Storm is a process on a node that connects and closes until it is ended.
type Storm struct {
	*Process
	stdin *os.File
	out   *bytes.Buffer // read after the process's end
}

// StormResult is what became of the connects of a storm.
type StormResult struct {
	Connects int
	OK       int
	Errnos   map[string]int // of those that failed, and of banners that did not come
	Banners  map[string]int
	Peers    map[string]int // as getpeername says
	Longest  time.Duration  // of one connect
}

// add sums results of workers.
func (r *StormResult) add(o StormResult) {
	r.Connects += o.Connects
	r.OK += o.OK
	r.Longest = max(r.Longest, o.Longest)
	for _, m := range []struct{ to, from map[string]int }{{r.Errnos, o.Errnos}, {r.Banners, o.Banners}, {r.Peers, o.Peers}} {
		for k, n := range m.from {
			m.to[k] += n
		}
	}
}

func newStormResult() StormResult {
	return StormResult{Errnos: map[string]int{}, Banners: map[string]int{}, Peers: map[string]int{}}
}

// StartStorm starts connecting from the node's namespace and cgroup.
func (n *Node) StartStorm(o StormOptions) (*Storm, error) {
	if o.Workers == 0 {
		o.Workers = 4
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start storm: %w", err)
	}
	s := &Storm{stdin: stdin, out: &bytes.Buffer{}}
	s.Process, err = n.Start(Command{Name: "storm", Path: reexec.Path, Argv0: reexec.Argv0("storm"), Env: undisturbed, Stdin: in, Stdout: s.out})
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	if _, err := stdin.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("start storm: %w", errors.Join(err, s.Kill(), stdin.Close()))
	}
	go func() { <-s.done; _ = stdin.Close() }() // also when it is killed
	return s, nil
}

// End ends the storm, when connects under way are through, and returns what
// became of all.
func (s *Storm) End() (r StormResult, err error) {
	if err := s.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return r, fmt.Errorf("end storm: %w", err)
	}
	<-s.done
	if s.err != nil {
		return r, s.ended()
	}
	return r, json.Unmarshal(s.out.Bytes(), &r)
}

func init() { reexec.Handle("storm", stormMain) }

func stormMain() error {
	in := json.NewDecoder(os.Stdin)
	var o StormOptions
	if err := in.Decode(&o); err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		var more any
		_ = in.Decode(&more) // returns at the end of the input: the word to end
		close(stop)
	}()
	total := newStormResult()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range o.Workers {
		wg.Go(func() {
			r := newStormResult()
			for n := i; ; n += o.Workers {
				select {
				case <-stop:
					mu.Lock()
					defer mu.Unlock()
					total.add(r)
					return
				case <-time.After(o.Pause):
				}
				o.connect(o.To[n%len(o.To)], &r)
			}
		})
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(total)
}

// connect connects once and notes what came of it.
func (o StormOptions) connect(to netip.AddrPort, r *StormResult) {
	r.Connects++
	err := func() error {
		fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		limit := unix.NsecToTimeval(int64(3 * time.Second))
		err = errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
		if o.Abort {
			err = errors.Join(err, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		}
		if err != nil {
			return err
		}
		started := time.Now()
		err = unix.Connect(fd, toSockaddr(to))
		if errors.Is(err, unix.EINTR) { // Go's scheduler sends signals; the connect goes on
			err = outcome(fd, 3*time.Second)
		}
		r.Longest = max(r.Longest, time.Since(started))
		if err != nil {
			return err
		}
		peer, err := unix.Getpeername(fd)
		if err != nil {
			return err
		}
		r.Peers[fromSockaddr(peer).String()]++
		return o.listen(fd, r)
	}()
	if err == nil {
		r.OK++
		return
	}
	r.Errnos[err.Error()]++
}

// listen counts the banner, if one is wanted.
func (o StormOptions) listen(fd int, r *StormResult) error {
	if !o.Banner {
		return nil
	}
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return fmt.Errorf("banner: %w", err)
	}
	r.Banners[string(buf[:n])]++
	return nil
}
