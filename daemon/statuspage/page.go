package statuspage

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Source is what the page needs of the daemon. It is safe for concurrent use.
type Source interface {
	Status(ctx context.Context) (v1.Status, error)
	Servers(ctx context.Context) ([]v1.Server, error)
	Proxies(ctx context.Context) ([]v1.Proxy, error)
	// Journal calls fn for each event after since, in order, and with follow
	// goes on until ctx ends.
	Journal(ctx context.Context, since uint64, follow bool, fn func(v1.JournalEvent) error) error
	// Connections calls fn for each connection event from now on, until ctx ends.
	Connections(ctx context.Context, fn func(v1.ConnectionEvent) error) error
}

// Config is what a Page is made of.
type Config struct {
	Source Source       // required
	Logger *slog.Logger // nil: slog.DiscardHandler
}

// timing is how often what is done.
type timing struct {
	tick     time.Duration // between two updates, while somebody watches
	soonest  time.Duration // between two readings of the source, whatever happens
	sample   time.Duration // between two points of a sparkline
	patience time.Duration // of a reading, and of a write to a reader
	retry    time.Duration // before the journal is followed again after an error
}

var defaultTiming = timing{
	tick: time.Second, soonest: 100 * time.Millisecond, sample: 5 * time.Second,
	patience: 5 * time.Second, retry: time.Second,
}

// maxReaders is how many may follow the page at once. They share the address's
// connections with /metrics, which must not go without.
const maxReaders = 24

// Page is the status page. It is safe for concurrent use.
type Page struct {
	source Source
	log    *slog.Logger
	timing timing
	web    web

	requests chan request            // to Run, which answers each; unbuffered
	leave    chan *reader            // to Run; unbuffered
	journal  chan v1.JournalEvent    // to Run, in order; unbuffered, so that the journal's follower waits
	connects chan v1.ConnectionEvent // as journal
	stopped  chan struct{}           // closed when Run has returned
	readers  atomic.Int32            // that follow
}

// errStopping is returned to who asks when Run has ended.
var errStopping = errors.New("lictord is stopping")

// New makes a page. It starts nothing: Run makes it live.
func New(cfg Config) *Page {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Page{
		source: cfg.Source, log: cfg.Logger.With("component", "statuspage"),
		timing: defaultTiming, web: loadWeb(),
		requests: make(chan request), leave: make(chan *reader), journal: make(chan v1.JournalEvent),
		connects: make(chan v1.ConnectionEvent), stopped: make(chan struct{}),
	}
}

// Mount routes the page: /, and what it needs below /page/.
func (p *Page) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", p.guarded(p.document))
	mux.HandleFunc("GET /page/events", p.guarded(p.events))
	mux.HandleFunc("GET /page/{build}/{file}", p.guarded(p.asset))
}

// Run keeps what is shown up to date until ctx ends, then lets all readers go.
// It is called once.
func (p *Page) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer close(p.stopped)
	var following sync.WaitGroup
	following.Go(func() { p.again(ctx, "journal", p.followJournal) })
	newHub(p).run(ctx, &following)
	cancel()
	following.Wait()
	return nil
}
