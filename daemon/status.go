package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/daemon/version"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

const (
	// verifyEvery is how long a hook that is gone may go unnoticed.
	verifyEvery = 3 * time.Second
	// repairAfter is how long whoever removed its pins has to stop lictord,
	// before they are taken to have been removed by mistake.
	repairAfter = 30 * time.Second
)

// attachment is what the last verification found.
type attachment struct {
	mu      sync.Mutex
	at      kernel.Attachment
	err     error
	on      time.Time
	pinGone time.Time // since when a pin is; zero when none is
}

func (a *attachment) set(found kernel.Attachment, err error) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !a.on.IsZero() && (a.err == nil) != (err == nil)
	a.at, a.err, a.on = found, err, time.Now()
	switch {
	case !errors.Is(err, kernel.ErrPinGone):
		a.pinGone = time.Time{}
	case a.pinGone.IsZero():
		a.pinGone = a.on
	}
	return changed
}

// repairable says whether a pin has been gone for long enough.
func (a *attachment) repairable() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.pinGone.IsZero() && a.on.Sub(a.pinGone) >= repairAfter
}

func (a *attachment) get() (kernel.Attachment, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at, a.on, a.err
}

// watchAttachment verifies again and again that the hook is in effect. Links
// whose pins were removed are made anew after a while: that is no way to end
// lictord, which `lictor unload` is. What somebody detached or replaced is left so:
// that was meant.
func (d *Daemon) watchAttachment(ctx context.Context) error {
	tick := time.NewTicker(verifyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		found, err := d.kernel.Verify(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch changed := d.attached.set(found, err); {
		case changed && err != nil:
			d.log.Error("hook is not in effect: new connects to VIPs fail", "err", err)
		case changed:
			d.log.Info("hook is in effect again")
		}
		if d.attached.repairable() {
			d.repairHook(ctx)
		}
	}
}

func (d *Daemon) repairHook(ctx context.Context) {
	if err := d.kernel.Attach(ctx); err != nil {
		d.log.Error("hook not attached again, next try in three seconds; stop lictord and run `lictor unload` if it is not to be", "err", err)
		return
	}
	d.log.Warn("hook attached again: its pins had been removed")
}

// Status implements server.Backend. It asks the registry last and with little
// patience, so that it says something whatever hangs.
func (b backend) Status(ctx context.Context) (v1.Status, error) {
	found, verified, hookErr := b.attached.get()
	st := v1.Status{
		Version: version.Version(), Node: b.cfg.NodeName, PID: os.Getpid(), Started: b.started,
		Attachment: v1.Attachment{
			InEffect: hookErr == nil, Cgroup: found.Cgroup, CgroupID: found.CgroupID, Verified: verified,
		},
		Reasons: map[string]uint64{}, Drift: b.drift(),
		Ring: v1.Ring{Events: b.metrics.RingEvents()},
	}
	if hookErr != nil {
		st.Attachment.Problem = hookErr.Error()
		st.Problems = append(st.Problems, "Connects to VIPs fail: "+hookErr.Error()+". "+hookAdvice(hookErr))
	}
	if hookErr == nil && found.Inside != "" {
		st.Problems = append(st.Problems, fmt.Sprintf("Connects to VIPs were tried from lictord's own cgroup alone (%s): "+
			"whether others' arrive is not known. Let lictord make a cgroup below %s.", found.Inside, found.Cgroup))
	}
	for _, pool := range []string{b.cfg.VIPCIDR.String(), b.cfg.VIPCIDR6.String()} {
		if pool != noPrefix {
			st.Pools = append(st.Pools, pool)
		}
	}
	reasons, err := b.kernel.Reasons()
	if err != nil {
		return st, fmt.Errorf("read the kernel's counters: %w", err)
	}
	for reason, n := range reasons {
		st.Reasons[reason.String()] = n
	}
	st.Ring.Dropped = reasons[kernel.ReasonRingDropped]
	consulStatus(&st, b.catalog.Status())
	b.journalStatus(&st)
	b.fleetStatus(&st)
	b.processStatus(&st)
	if err := b.proxyStatus(ctx, &st); err != nil {
		return st, err
	}
	st.Ready = ready(hookErr == nil, st.Journal.Writable, st.Servers)
	return st, nil
}

// ready says whether the host does its work. Without Consul what is journaled
// stays in force: a problem, but no reason to take proxies elsewhere.
func ready(hook, writable bool, servers int) bool { return hook && writable && servers > 0 }

// hookAdvice says what ends it.
func hookAdvice(err error) string {
	const restart = "Restart lictord to attach it again"
	if errors.Is(err, kernel.ErrPinGone) {
		return restart + "; it does so by itself half a minute after its pins were removed."
	}
	return restart + "; if that does not help, `bpftool cgroup tree` shows which other programs decide about connects there."
}

// noPrefix is how a zero netip.Prefix prints.
const noPrefix = "invalid Prefix"

// consulStatus tells of the contact with Consul, and since when there is none: at
// a start without it since that start, as what a lictord before this one had is
// not known.
func consulStatus(st *v1.Status, contact catalog.Status) {
	st.Consul = v1.Consul{
		Address: contact.Server, LastContact: contact.LastContact,
		Errors: contact.Errors, LastError: contact.Problem,
	}
	if contact.Problem == "" {
		return
	}
	since, from := contact.Since, ""
	if contact.LastContact.IsZero() {
		since, from = st.Started, "lictord was started at "
	}
	st.Consul.NoContact = since
	st.Problems = append(st.Problems, fmt.Sprintf(
		"No contact with Consul since %s%s; servers that are known stay in force: %s",
		from, since.Local().Format(time.DateTime), contact.Problem))
}

func (b backend) journalStatus(st *v1.Status) {
	stats := b.journal.Stats()
	st.Journal = v1.Journal{
		UUID: b.journal.Meta().UUID, Seq: stats.Last, Oldest: stats.First, Bytes: stats.Bytes, Writable: true,
	}
	b.diskStatus(st)
}

func (b backend) proxyStatus(ctx context.Context, st *v1.Status) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	tally, err := b.registry.Tally(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		st.Problems = append(st.Problems, "Servers and proxies cannot be told: lictord does not get to its own state. If this lasts, see its log, and whether its disk answers.")
		return nil
	}
	if err != nil {
		return problem(err)
	}
	st.Proxies.Waiting, st.Proxies.NoOwner = tally[registry.Waiting], tally[registry.NoOwner]
	snap, err := b.registry.Snapshot(ctx)
	if err != nil {
		return problem(err)
	}
	st.Proxies.Total = len(snap.State.Proxies)
	credentialStatus(st, snap.State)
	st.Servers, st.Journal.Pending = len(snap.State.Servers), snap.Pending
	if st.Servers == 0 {
		st.Problems = append(st.Problems, "No Consul server is known: connects to VIPs are refused until Consul has told of one.")
	}
	return nil
}

// Journal implements server.Backend.
func (b backend) Journal(ctx context.Context, since uint64, follow bool, fn func(v1.JournalEvent) error) error {
	if since == 0 { // all there is, not all there ever was
		since = b.journal.Stats().First - 1
	}
	each := func(e state.Event) error {
		line, err := journalEvent(e)
		if err != nil {
			return err
		}
		return fn(line)
	}
	if follow {
		return retained(b.journal.Follow(ctx, since, each))
	}
	return retained(b.journal.Read(since, each))
}

// History implements server.Backend.
func (b backend) History(_ context.Context, id string) (v1.History, error) {
	h := v1.History{ProxyID: id, Oldest: b.journal.Stats().First}
	events, err := b.journal.History(id, 0)
	if err != nil {
		return h, retained(err)
	}
	if len(events) == 0 {
		return h, fmt.Errorf("%w: the journal has no event of proxy %s since sequence number %d; `lictor proxies` lists those that are registered", server.ErrNotFound, id, h.Oldest)
	}
	for _, e := range events {
		line, err := journalEvent(e)
		if err != nil {
			return h, err
		}
		h.Events = append(h.Events, line)
	}
	return h, nil
}

func journalEvent(e state.Event) (v1.JournalEvent, error) {
	data, err := json.Marshal(e.Body)
	return v1.JournalEvent{Seq: e.Seq, Time: e.Time, Kind: string(e.Body.Kind()), Data: data}, err
}

func retained(err error) error {
	if errors.Is(err, journal.ErrNotRetained) {
		return fmt.Errorf("%w: %w", server.ErrGone, err)
	}
	return err
}
