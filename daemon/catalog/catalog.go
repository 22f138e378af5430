// Package catalog follows the set of Consul servers.
//
// It finds a first server from what the operator gave, then follows the health
// of the service "consul" by blocking queries, on one server at a time and on
// another one when that fails. What it hands on is always a set that a Consul
// server with a leader has answered: never an empty one, and never one that
// ACLs have filtered. While no server answers, the last set stays.
package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where Consul is. Addresses is required; every other zero value
// has a meaning of its own.
type Config struct {
	// Addresses is what --consul-addresses takes: addresses and DNS names
	// separated by commas, each with a port or without, or exec=<command>,
	// whose output is that. A port given here is the HTTP port of that server,
	// or with WatchDisabled its gRPC port.
	Addresses string
	// HTTPPort of the servers; 0 means 8500, or 8501 with TLS.
	HTTPPort uint16
	// GRPCPort of the servers; 0 means the one that the catalog tells, and with
	// WatchDisabled 8502, or 8503 with TLS.
	GRPCPort uint16
	// TokenFile holds the ACL token; it is read again for every query. "" means
	// no token.
	TokenFile string
	// TLS of the HTTP API. Its zero value is TLS with the system's roots.
	TLS TLS
	// WatchDisabled hands on the addresses given, with no question to Consul.
	WatchDisabled bool
	// GRPCOnly follows the servers by the gRPC stream WatchServers, for where
	// their HTTP API is not open. That tells neither names nor ports: a server's
	// ID is Consul's id of its node then, and GRPCPort is that of all of them, 0
	// meaning as with WatchDisabled. A port given with an address is gRPC's.
	GRPCOnly bool

	Log *slog.Logger     // nil: discarded
	Now func() time.Time // nil: time.Now
	// Dial connects to servers; nil: a net.Dialer that notices a vanished host
	// within 5 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Lookup resolves DNS names; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Catalog follows the servers while Run runs. All methods are safe for
// concurrent use.
type Catalog struct {
	cfg     Config
	log     *slog.Logger
	spec    spec
	timing  timing
	client  *http.Client
	targets targets
	// source follows the servers on one server until that fails.
	source func(ctx context.Context, target string) error

	// updates holds the newest set only: a set that nobody has taken is
	// replaced by the next one.
	updates chan []Server
	// resolveNow asks for a resolution before its time; a second request while
	// one is waiting is the same request.
	resolveNow chan struct{}
	// resolved tells follow, when it has no address at all, that there is one.
	resolved chan struct{}

	grpcConns grpcConns     // for questions about proxies
	paramTurn atomic.Uint64 // of the server that such a question begins with
	rights    chan struct{} // holds one for each question about rights that is under way

	failed [len(Reasons)]atomic.Uint64 // by their places in Reasons
	mu     sync.Mutex                  // guards what follows
	status Status
	last   []Server        // handed on last
	logged map[string]bool // problems logged since the last contact

	problemOf string // the address that status.Problem is about, "" for none
}

// timing is every duration that tests want shorter.
type timing struct {
	wait      time.Duration // that a blocking query is asked to block
	answer    time.Duration // that anything but blocking may take
	dial      time.Duration // that a connect with its TLS handshake may take
	heartbeat time.Duration // between questions to a server whose query blocks
	quiet     time.Duration // least time between two queries that bring nothing new
	resolve   time.Duration // between resolutions
	command   time.Duration // that the command of exec= may take
	rotate    time.Duration // most before the next server is tried in the first round
	backoff   time.Duration // before another round over all servers, doubling
	backoffTo time.Duration // up to this
	steady    time.Duration // following this long ends a row of failures
}

var defaultTiming = timing{
	wait:      5 * time.Minute,
	answer:    2 * time.Second,
	dial:      2 * time.Second,
	heartbeat: 2 * time.Second,
	quiet:     250 * time.Millisecond,
	resolve:   time.Minute,
	command:   10 * time.Second,
	rotate:    50 * time.Millisecond,
	backoff:   500 * time.Millisecond,
	backoffTo: 5 * time.Second,
	steady:    10 * time.Second,
}

// maxLogged bounds the problems logged in one loss of contact.
const maxLogged = 32

// Status is how the contact with Consul is.
type Status struct {
	// Server is the HTTP address that is followed, "" while none answers.
	Server string
	// LastContact is when a server with a leader has last answered, or with
	// WatchDisabled when the addresses were last resolved; zero before that.
	LastContact time.Time
	// Problem is a sentence that says what is wrong and what to do; "" when
	// nothing is.
	Problem string
	// Since is when Problem began.
	Since time.Time
	// Errors is the number of queries and resolutions that failed since New.
	Errors uint64
	// Failed is that number by reason.
	Failed map[Reason]uint64
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Catalog, error) {
	spec, err := parseAddresses(cfg.Addresses)
	if err != nil {
		return nil, fmt.Errorf("addresses of Consul: %w", err)
	}
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = 8501
		if cfg.TLS.Disabled {
			cfg.HTTPPort = 8500
		}
	}
	if cfg.GRPCPort == 0 && (cfg.WatchDisabled || cfg.GRPCOnly) {
		cfg.GRPCPort = 8503
		if cfg.TLS.Disabled {
			cfg.GRPCPort = 8502
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dial == nil {
		d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3,
		}}
		cfg.Dial = d.DialContext
	}
	if cfg.Lookup == nil {
		cfg.Lookup = lookup
	}
	if !cfg.TLS.Disabled && !cfg.WatchDisabled {
		// What is wrong with the files now is said now; they are read again for
		// each connection, for they are rotated.
		if _, err := cfg.TLS.config(""); err != nil {
			return nil, err
		}
	}
	c := &Catalog{
		cfg:        cfg,
		log:        cfg.Log.With("component", "catalog"),
		spec:       spec,
		timing:     defaultTiming,
		updates:    make(chan []Server, 1),
		resolveNow: make(chan struct{}, 1),
		resolved:   make(chan struct{}, 1),
		rights:     make(chan struct{}, rightsAtOnce),
		logged:     map[string]bool{},
	}
	c.client = c.newClient()
	c.source = c.watch
	if cfg.GRPCOnly {
		c.source = c.watchStream
	}
	return c, nil
}

// Run follows the catalog until ctx ends, and returns nil then. It returns
// after all that it started has ended.
func (c *Catalog) Run(ctx context.Context) error {
	defer c.client.CloseIdleConnections()
	defer c.grpcConns.close()
	var wg sync.WaitGroup
	wg.Go(func() { c.resolveLoop(ctx) })
	if !c.cfg.WatchDisabled {
		c.follow(ctx)
	}
	wg.Wait()
	return nil
}

// Updates is the channel of server sets, sorted by id, each one whole. It holds
// the newest set only. The first comes as soon as a server has answered; none
// is sent twice in a row. It is never closed.
func (c *Catalog) Updates() <-chan []Server { return c.updates }

// Status says how the contact with Consul is now.
func (c *Catalog) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Failed = make(map[Reason]uint64, len(Reasons))
	for i, reason := range Reasons {
		s.Failed[reason] = c.failed[i].Load()
		s.Errors += s.Failed[reason]
	}
	return s
}

// publish hands a set on if it differs from the last one.
func (c *Catalog) publish(servers []Server) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(servers, c.last) {
		return false
	}
	c.last = servers
	select {
	case <-c.updates: // nobody wants the older one any more
	default:
	}
	// There is room: only this function sends, and it holds the lock.
	c.updates <- slices.Clone(servers)
	return true
}

// contact notes that a server answered as it should.
func (c *Catalog) contact(server string) {
	c.mu.Lock()
	problem, since := c.status.Problem, c.status.Since
	now := c.cfg.Now()
	c.status = Status{Server: server, LastContact: now}
	clear(c.logged)
	c.mu.Unlock()
	if problem != "" {
		c.log.Info("consul answers again", "server", server, "after_ms", now.Sub(since).Milliseconds())
	}
}

// fail counts a failure.
func (c *Catalog) fail(err error) {
	c.failed[slices.Index(Reasons[:], reasonFor(err))].Add(1)
}

// problem counts a failure, keeps the sentence for the status, and logs it once
// for as long as it lasts.
func (c *Catalog) problem(server string, err error) {
	c.fail(err)
	sentence := SentenceOf(err)
	c.mu.Lock()
	if c.status.Problem == "" {
		c.status.Since = c.cfg.Now()
	}
	c.status.Server = ""
	// The operator can do something about the addresses given; that a server
	// out of the catalog does not answer either must not hide it.
	if c.targets.given(server) || !c.targets.given(c.problemOf) || c.status.Problem == "" {
		c.status.Problem, c.problemOf = sentence, server
	}
	// Servers are asked in turns, and each may have a trouble of its own.
	news := !c.logged[sentence] && len(c.logged) < maxLogged
	if news {
		c.logged[sentence] = true
	}
	c.mu.Unlock()
	if news {
		c.log.Warn("no contact with consul", "server", server, "problem", sentence, "err", err)
	}
}
