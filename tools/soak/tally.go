package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/storm"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// tally counts the connects to VIPs that stay, and compares that with what the
// kernel counted. A storm is ended to be counted, so there is one a minute.
type tally struct {
	*soak
	pod    *bed.Pod
	ids    []string
	to     []netip.AddrPort
	storm  *bed.Storm
	began  time.Time // of the storm
	sum    bed.StormResult
	failed map[string]int

	mu    sync.Mutex
	until time.Time // till when a server is, or was just, in trouble
}

func startTally(ctx context.Context, s *soak, ledger *storm.Ledger) (*tally, error) {
	t := &tally{soak: s, failed: map[string]int{}}
	var err error
	if t.pod, err = s.host.NewPod("stable"); err != nil {
		return nil, err
	}
	for i := range stableVIPs {
		id := fmt.Sprintf("stable-%d", i)
		r, err := s.api.Register(ctx, id, v1.RegisterRequest{Netns: t.pod.Netns.Path})
		if err != nil {
			return nil, err
		}
		if err := ledger.Registered(id, r); err != nil {
			return nil, err
		}
		t.ids, t.to = append(t.ids, id), append(t.to, mustAddr(r))
	}
	return t, t.start()
}

func (t *tally) start() (err error) {
	t.began = time.Now()
	t.storm, err = t.pod.StartStorm(bed.StormOptions{To: t.to, Workers: 2, Abort: true, Pause: 20 * time.Millisecond})
	return err
}

// disturbed says until when connects may meet a server that is in trouble.
func (t *tally) disturbed(until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.until = until
}

// judge ends the storm, compares, and starts the next one. The kernel must have
// counted every connection that the storm says it had. A connect that gave up
// waiting at the very moment of the answer may be one for the kernel alone.
func (t *tally) judge(ctx context.Context) error {
	r, err := t.storm.End()
	if err != nil {
		return err
	}
	began := t.began
	t.sum.Connects += r.Connects
	t.sum.OK += r.OK
	t.sum.Longest = max(t.sum.Longest, r.Longest)
	for errno, n := range r.Errnos {
		t.failed[errno] += n
	}
	var counted, failed uint64
	for _, id := range t.ids {
		p, err := t.api.Proxy(ctx, id)
		if err != nil {
			return errors.Join(err, t.start())
		}
		counted += p.Total
		failed += p.Failed
	}
	var errs []error
	ok, timedOut := uint64(t.sum.OK), uint64(t.failed[unix.EINPROGRESS.Error()]+t.failed[unix.EAGAIN.Error()])
	if counted < ok || counted > ok+timedOut {
		errs = append(errs, fmt.Errorf("the kernel counted %d connections, there were %d, and %d connects that timed out", counted, ok, timedOut))
	}
	if all := uint64(t.sum.Connects); counted+failed > all {
		errs = append(errs, fmt.Errorf("the kernel counted %d connections and %d failures, of %d connects", counted, failed, all))
	}
	t.mu.Lock()
	calm := t.until.Before(began)
	t.mu.Unlock()
	if calm && r.OK != r.Connects {
		errs = append(errs, fmt.Errorf("of %d connects %d arrived, with all servers well: %v", r.Connects, r.OK, r.Errnos))
	}
	if r.Connects == 0 {
		errs = append(errs, errors.New("the storm made no connect"))
	}
	return errors.Join(append(errs, t.start())...)
}
