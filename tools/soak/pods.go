package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const (
	podEvery = 10 * time.Second
	// reapedWithin is longer than lictord waits for a proxy that Consul no
	// longer knows, or for an owner that is gone.
	reapedWithin = 13 * time.Minute
)

// pods come and go, each with a proxy in Consul's catalog that speaks xDS
// through its VIP.
type pods struct {
	*soak
	fleet  *bed.Fleet
	random *rand.Rand
	made   int

	mu   sync.Mutex
	live []*pod
	gone map[string]time.Time // ids that lictord was not told are gone
}

type pod struct {
	*bed.Pod
	service bed.Service
	proxy   bed.Proxy
	vip     string
}

const podPrefix = "web-"

func isPod(id string) bool { return strings.HasPrefix(id, podPrefix) }

func startPods(ctx context.Context, s *soak, random *rand.Rand) (*pods, error) {
	p := &pods{soak: s, random: random, gone: map[string]time.Time{}}
	var err error
	if p.fleet, err = s.host.StartFleet(); err != nil {
		return nil, err
	}
	for range podCount {
		if err := p.add(ctx); err != nil {
			return nil, err
		}
	}
	return p, p.fleet.WaitUp(ctx, podCount)
}

// add makes a pod, whose proxy is registered from its own network namespace.
func (p *pods) add(ctx context.Context) error {
	p.made++
	made, err := p.host.NewPod(fmt.Sprintf("pod-%d", p.made))
	if err != nil {
		return err
	}
	one := &pod{Pod: made, service: bed.Service{Name: "web", Pod: made}}
	if err := p.again(ctx, func() (err error) { one.proxy, err = p.cluster.Register(ctx, one.service); return err }); err != nil {
		return err
	}
	var r v1.Registered
	if err := p.again(ctx, func() (err error) { r, err = p.register(ctx, one); return err }); err != nil {
		return err
	}
	one.vip = r.VIP
	p.mu.Lock()
	p.live = append(p.live, one)
	p.mu.Unlock()
	return p.fleet.Add(one.proxy, mustAddr(r), made.Node)
}

// register registers a proxy from its pod's network namespace, which then owns
// the VIP.
func (p *pods) register(ctx context.Context, one *pod) (r v1.Registered, err error) {
	out, err := p.lictor.CLI(ctx, one.Node, "register", one.proxy.ID, "--node-name", one.proxy.NodeName, "--json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// churn replaces a pod every now and then. One in three goes without a word to
// lictord, which must find out.
func (p *pods) churn(ctx context.Context) {
	for sleep(ctx, podEvery/2+time.Duration(p.random.Int64N(int64(podEvery)))) {
		if err := p.replace(ctx); err != nil && ctx.Err() == nil {
			p.check("replace a pod", err)
		}
	}
}

func (p *pods) replace(ctx context.Context) error {
	p.mu.Lock()
	i := p.random.IntN(len(p.live))
	one := p.live[i]
	p.live = append(p.live[:i], p.live[i+1:]...)
	silent := p.random.IntN(3) == 0
	p.gone[one.proxy.ID] = time.Now()
	p.mu.Unlock()
	err := errors.Join(
		p.fleet.Remove(one.proxy.ID),
		p.again(ctx, func() error { return p.cluster.Deregister(ctx, one.service) }))
	if !silent {
		err = errors.Join(err, p.again(ctx, func() error { return p.api.Deregister(ctx, one.proxy.ID) }))
		if err == nil {
			p.mu.Lock()
			delete(p.gone, one.proxy.ID)
			p.mu.Unlock()
		}
	}
	return errors.Join(err, one.Remove(), p.add(ctx))
}

// restarted gives those that are gone more time: what lictord has noticed so
// far it does not keep.
func (p *pods) restarted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.gone {
		p.gone[id] = time.Now()
	}
}

// judge compares the pods with what lictord lists.
func (p *pods) judge(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	listed, err := p.api.Proxies(ctx)
	if err != nil {
		return err
	}
	have := map[string]string{}
	for _, l := range listed {
		if isPod(l.ProxyID) {
			have[l.ProxyID] = l.VIP
		}
	}
	var errs []error
	for _, one := range p.live {
		if vip := have[one.proxy.ID]; vip != one.vip {
			errs = append(errs, fmt.Errorf("%s was promised %s and has %q", one.proxy.ID, one.vip, vip))
		}
		delete(have, one.proxy.ID)
	}
	for id, since := range p.gone {
		if _, is := have[id]; !is {
			delete(p.gone, id) // reaped
		} else if age := time.Since(since); age > reapedWithin {
			errs = append(errs, fmt.Errorf("%s has been gone for %v and is not reaped", id, age.Round(time.Second)))
		}
		delete(have, id)
	}
	for id := range have {
		if !p.arriving(id) {
			errs = append(errs, fmt.Errorf("%s is listed, and was deregistered", id))
		}
	}
	return errors.Join(errs...)
}

// arriving says that a pod is just being made, and not noted yet.
func (p *pods) arriving(id string) bool {
	return id == fmt.Sprintf("%spod-%d-sidecar-proxy", podPrefix, p.made)
}

// up is how many of the live pods have their configuration.
func (p *pods) up() (up, of int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	states := p.fleet.State()
	for _, one := range p.live {
		if states[one.proxy.ID].Up {
			up++
		}
	}
	return up, len(p.live)
}
