package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Config is what a Server is made of.
type Config struct {
	Backend Backend      // required
	Logger  *slog.Logger // nil: slog.DiscardHandler
	// Socket is the path of the API's unix socket; its directory is made when
	// it is missing. Required.
	Socket string
	// HTTPAddr is the TCP address of the read-only pages; "" means none.
	HTTPAddr string
	// Metrics answers /metrics on HTTPAddr; nil means that there are none.
	Metrics http.Handler
	// Page is the status page, at / of HTTPAddr; nil means that there is none.
	// When the daemon stops it ends its answers by itself.
	Page interface{ Mount(mux *http.ServeMux) }
}

// timing is the time within which a client must do its part. A client that is
// slower loses its connection, so that none can hold on to the daemon's memory.
type timing struct {
	header   time.Duration // from the connection, or a request's first byte, to the end of its header
	read     time.Duration // from there to the end of its body
	answer   time.Duration // from there to the end of the answer
	idle     time.Duration // between two requests
	line     time.Duration // for a line of a stream to be taken
	shutdown time.Duration // for answers under way when the daemon stops
}

var defaultTiming = timing{
	header: 5 * time.Second, read: 10 * time.Second, answer: 30 * time.Second,
	idle: 60 * time.Second, line: 10 * time.Second, shutdown: 5 * time.Second,
}

const (
	maxHeader    = 16 << 10 // bytes of a request's header
	maxPageConns = 64       // connections to the read-only pages at once; more wait
)

// Server answers the API on a unix socket and the read-only pages on TCP.
type Server struct {
	cfg      Config
	log      *slog.Logger
	api      *apiListener
	pages    net.Listener  // nil without HTTPAddr
	stopping chan struct{} // closed when Run begins to stop: ends streams
	limits   limits
	timing   timing
}

// New makes a server. It starts and opens nothing.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: cfg.Logger.With("component", "api"),
		stopping: make(chan struct{}), limits: defaultLimits, timing: defaultTiming,
	}
}

// Listen opens the listeners, so that a daemon learns early that it cannot
// have them: ErrInUse when another daemon answers on the socket. Run calls it
// unless it was called. Clients that connect between the two wait. Run closes
// them, or Close when Run is not called.
func (s *Server) Listen() error {
	if s.api != nil {
		return nil
	}
	api, err := listenAPI(s.cfg.Socket, s.limits, s.log)
	if err != nil {
		return err
	}
	if s.cfg.HTTPAddr != "" {
		pages, err := net.Listen("tcp", s.cfg.HTTPAddr)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for --http-addr: %w%s", err, adviceOn(err)), api.Close())
		}
		s.pages = bound(pages, maxPageConns)
	}
	s.api = api
	return nil
}

// adviceOn says what to do about an address that could not be had.
func adviceOn(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return `; stop what listens there ("ss -ltnp" names it), or give another --http-addr, or "" for none`
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return `; give --http-addr an address of this host`
	case errors.Is(err, syscall.EACCES):
		return `; give --http-addr a port from 1024 on, or run lictord with CAP_NET_BIND_SERVICE`
	}
	return ""
}

// Close closes what Listen opened and removes the socket. After Run has returned
// it has nothing to do.
func (s *Server) Close() error {
	if s.api == nil {
		return nil
	}
	errs := []error{s.api.Close()}
	if s.pages != nil {
		if err := s.pages.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// HTTPAddr is the address of the read-only pages, nil before Listen and
// without Config.HTTPAddr.
func (s *Server) HTTPAddr() net.Addr {
	if s.pages == nil {
		return nil
	}
	return s.pages.Addr()
}

// Run serves until ctx ends or a listener fails, then ends streams, waits for
// answers under way, removes the socket, and returns nil or the failure. It is
// called once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	s.log.Info("listening", "socket", s.cfg.Socket, "http_addr", s.cfg.HTTPAddr)
	servers := []*http.Server{s.httpServer(s.apiHandler())}
	if s.pages != nil {
		servers = append(servers, s.httpServer(s.pagesHandler()))
	}
	failed := make(chan error, len(servers)) // one each, never blocks
	listeners := []net.Listener{s.api, s.pages}
	for i, server := range servers {
		go func() { failed <- server.Serve(listeners[i]) }()
	}
	var errs []error
	running := len(servers)
	select {
	case <-ctx.Done():
	case err := <-failed:
		running--
		errs = append(errs, fmt.Errorf("serve the API: %w", err))
	}
	close(s.stopping)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timing.shutdown)
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(stop); err != nil {
			// What is still under way is cut: the daemon has to stop.
			s.log.Warn("answers under way were cut", "err", err)
			errs = append(errs, server.Close())
		}
	}
	for ; running > 0; running-- {
		if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, fmt.Errorf("serve the API: %w", err))
		}
	}
	return errors.Join(errs...)
}

// httpServer is a server with every limit set.
func (s *Server) httpServer(mux *http.ServeMux) *http.Server {
	return &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: s.timing.header,
		ReadTimeout:       s.timing.read,
		IdleTimeout:       s.timing.idle,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
