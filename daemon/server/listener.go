package server

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Listen when another daemon answers on the socket.
var ErrInUse = errors.New("another lictord listens there")

// limits bound the connections of the API.
type limits struct {
	total    int // at once; more wait in the socket's backlog
	perNetns int // at once from one network namespace by callers that are not root
}

// others is how many connections callers that are not root may have at once, in all
// namespaces together: an operator gets through whatever pods do.
func (l limits) others() int { return l.total * 3 / 4 }

var defaultLimits = limits{total: 512, perNetns: 64}

// maxSocketPath is the size of sun_path in unix(7), less the terminating zero.
const maxSocketPath = 107

// apiListener listens on the API's unix socket, asks the kernel who connects,
// and keeps the number of connections within its limits.
type apiListener struct {
	*net.UnixListener
	path   string
	lock   *os.File // holds the flock that makes this daemon the path's only one
	log    *slog.Logger
	limits limits
	slots  chan struct{} // a token for each open connection; full: Accept waits
	done   chan struct{} // closed by Close
	close  func() error

	// Open connections of callers that are not root.
	mu       sync.Mutex
	perNetns map[uint64]int // by namespace cookie
	others   int            // in all
}

// listenAPI opens the socket, replacing one that a dead daemon left.
func listenAPI(path string, limits limits, log *slog.Logger) (*apiListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path is %d bytes long, a unix socket's at most %d; set a shorter --socket",
			path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w; set another --socket", err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	inner, err := replaceSocket(path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l := &apiListener{
		UnixListener: inner, path: path, lock: lock, log: log, limits: limits,
		slots: make(chan struct{}, limits.total), done: make(chan struct{}),
		perNetns: map[uint64]int{},
	}
	l.close = sync.OnceValue(l.shut)
	return l, nil
}

// lockSocket takes the path's lock file, which is never removed: a lock on a
// file that is no longer there excludes nobody.
func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of socket %s: %w; set another --socket", path, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("listen on %s: %w; stop it, or set another --socket", path, err), lock.Close())
	}
	return lock, nil
}

// replaceSocket listens on path, under the lock. What is there is removed only
// when it is a socket on which nobody listens.
func replaceSocket(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at socket %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("listen on %s: a file that is not a socket is there; remove it, or set another --socket", path)
	default:
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // shut does it, in its order
	// Everybody may connect; what they may do is decided by who they are.
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("open socket %s to its callers: %w", path, err), l.Close(), os.Remove(path))
	}
	return l, nil
}

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("listen on %s: %w; stop it, or set another --socket", path, ErrInUse), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("find out whether a daemon listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket of a dead daemon: %w", err)
	}
	return nil
}

// Accept waits for a connection within the limits.
func (l *apiListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			<-l.slots
			return nil, err
		}
		caller, err := callerOf(conn)
		if err != nil {
			l.log.Warn("connection closed: its caller is unknown", "err", err)
			conn.Close()
			<-l.slots
			continue
		}
		if peer := l.admit(conn, caller); peer != nil {
			return peer, nil
		}
	}
}

// admit counts a connection, or closes it and returns nil when its namespace
// has twice what it may have, or all of them together have what they may. Between
// once and twice it is answered 429, so that a client is told, but cannot pile up
// connections that say nothing.
func (l *apiListener) admit(conn *net.UnixConn, caller Caller) *apiConn {
	peer := &apiConn{UnixConn: conn, caller: caller}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !caller.root() {
		n := l.perNetns[caller.NetnsCookie]
		if n >= 2*l.limits.perNetns || l.others >= l.limits.others() {
			conn.Close()
			<-l.slots
			return nil
		}
		peer.over = n >= l.limits.perNetns
		l.perNetns[caller.NetnsCookie]++
		l.others++
	}
	peer.release = sync.OnceFunc(func() { l.release(caller) })
	return peer
}

func (l *apiListener) release(caller Caller) {
	if !caller.root() {
		l.mu.Lock()
		if l.perNetns[caller.NetnsCookie]--; l.perNetns[caller.NetnsCookie] == 0 {
			delete(l.perNetns, caller.NetnsCookie)
		}
		l.others--
		l.mu.Unlock()
	}
	<-l.slots
}

// Close stops listening and removes the socket. It may be called again.
func (l *apiListener) Close() error { return l.close() }

func (l *apiListener) shut() error {
	close(l.done)
	// The name goes first: whoever finds it gone starts no call that would be cut.
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.UnixListener.Close(), l.lock.Close())
}

// apiConn is a connection whose caller is known.
type apiConn struct {
	*net.UnixConn
	caller  Caller
	over    bool // its namespace has more connections than it may: answer 429
	release func()
}

// Close closes the connection and gives its place to the next.
func (c *apiConn) Close() error {
	err := c.UnixConn.Close()
	c.release()
	return err
}

// boundedListener lets so many connections be open at once; more wait.
type boundedListener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	close func() error
}

func bound(inner net.Listener, total int) *boundedListener {
	l := &boundedListener{Listener: inner, slots: make(chan struct{}, total), done: make(chan struct{})}
	l.close = sync.OnceValue(func() error { close(l.done); return inner.Close() })
	return l
}

// Accept waits for a place and a connection.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close stops listening. It may be called again.
func (l *boundedListener) Close() error { return l.close() }

type boundedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and gives its place to the next.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
