package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

// What pods may have of lictord at once.
const (
	maxSessions   = 2048 // connections of all
	maxSessionsOf = 16   // connections to one listener
	maxHeader     = 8 << 10
	headerTimeout = 5 * time.Second
	writeTimeout  = 5 * time.Second // and what the handler gives itself
	idleTimeout   = 15 * time.Second
	// listenEvery is the pause before an address that is taken is tried again:
	// it may be a predecessor's, which is ending.
	listenEvery = 2 * time.Second
)

// endpoint is a listener that a proxy asks for, in its own network namespace.
type endpoint struct {
	name    string // for people
	at      netip.AddrPort
	handler http.Handler
}

// endpoints are those that the settings ask for.
func (l *life) endpoints(r *running) (all []endpoint, err error) {
	if l.settings.GracefulBind != "" {
		at, perr := netip.ParseAddrPort(l.settings.GracefulBind)
		if perr != nil {
			err = fmt.Errorf("the address of the graceful endpoints, %s, is none", l.settings.GracefulBind)
		} else {
			all = append(all, endpoint{"graceful endpoints", at, l.gracefulHandler(r)})
		}
	}
	if p := l.settings.Prometheus; p != nil && p.MergePort > 0 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(p.MergePort))
		all = append(all, endpoint{"merged metrics", at, l.metricsHandler(r)})
	}
	return all, err
}

// serve serves a process's endpoints until ctx ends.
func (l *life) serve(ctx context.Context, r *running) {
	all, err := l.endpoints(r)
	if err != nil {
		l.problem("listen", err.Error())
	}
	var group sync.WaitGroup
	for _, e := range all {
		l.spawn(ctx, &group, func() { l.serveOne(ctx, r, e) })
	}
	group.Wait()
}

func (l *life) serveOne(ctx context.Context, r *running, e endpoint) {
	for {
		listener, err := l.listen(r, e.at)
		if err == nil {
			l.problem(e.name, "")
			l.answer(ctx, listener, e.handler)
		} else if !errors.Is(err, errGone) {
			l.problem(e.name, fmt.Sprintf("its %s are not served on %s: %v", e.name, e.at, err))
		}
		if !sleep(ctx, listenEvery) {
			return
		}
	}
}

func (l *life) listen(r *running, at netip.AddrPort) (net.Listener, error) {
	ns, err := r.netns(l.owner)
	if err != nil {
		return nil, err
	}
	defer ns.Close() // the listener keeps it from now on
	listener, err := netns.Listen(ns, at, l.process.UID)
	if errors.Is(err, unix.EADDRINUSE) {
		err = errors.New("another process of its pod listens there; give each its own port")
	}
	return listener, err
}

// answer serves a listener until ctx ends or it fails, and closes it.
func (l *life) answer(ctx context.Context, listener net.Listener, handler http.Handler) {
	var group sync.WaitGroup // of connections, each of which has a goroutine
	defer group.Wait()
	server := &http.Server{
		Handler: handler,
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew: // before Serve can return
				group.Add(1)
			case http.StateClosed:
				group.Done()
			}
		},
		ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(l.log.Handler(), slog.LevelDebug), // it would be the pod's to fill
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(&bounded{Listener: listener, all: l.manager.sessions, own: make(chan struct{}, maxSessionsOf)})
	if ctx.Err() == nil {
		l.log.Warn("listener of a proxy failed, next try in two seconds", "address", listener.Addr().String(), "err", err)
	}
	_ = server.Close()
}

// bounded is a listener that ends connections for which there is no place.
type bounded struct {
	net.Listener
	all, own chan struct{} // a place for each connection
}

// Accept gives the next connection that has a place.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if take(b.own) {
			if take(b.all) {
				return &session{Conn: c, leave: func() { <-b.own; <-b.all }}, nil
			}
			<-b.own
		}
		_ = c.Close()
	}
}

func take(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

// session is a connection that has a place.
type session struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close gives the place back.
func (s *session) Close() error {
	defer s.once.Do(s.leave)
	return s.Conn.Close()
}

// allow lets an answer take longer than others.
func allow(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(d + headerTimeout)) // else the request would end with it
	_ = c.SetWriteDeadline(time.Now().Add(d + writeTimeout))
}
