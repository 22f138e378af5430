package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/powercut/disk"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// server is the address of the Consul server that lictord is given. It need not
// be there: a promise is made without it.
const server = "10.66.255.1"

// hostCutter cuts the power of one host again and again: its disk and all that
// was in its memory, the kernel's maps included.
type hostCutter struct {
	disk  *disk.Disk
	host  *bed.Host
	rng   *rand.Rand
	fleet fleet
	acks  atomic.Uint64
	last  uint64
}

// cutHost runs rounds with the whole real lictord on a host of the testbed.
func cutHost(ctx context.Context, rounds int, seed uint64) (t Tally, err error) {
	if rounds == 0 {
		return t, nil
	}
	d, err := disk.New(disk.Options{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	b, err := bed.Open(bed.Options{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, b.Close()) }() // before the disk, whose files it has open
	h, err := b.NewHost("host")
	if err != nil {
		return t, err
	}
	c := &hostCutter{disk: d, host: h, rng: rand.New(rand.NewPCG(seed, 0)), fleet: newFleet(clients)}
	l, err := h.StartLictor(bed.LictorOptions{Args: []string{
		"--state-dir=" + filepath.Join(d.Path, "lictor"), "--consul-addresses=" + server, "--server-watch-disabled", "--consul-grpc-port=8502",
	}})
	if err != nil {
		return t, err
	}
	began := time.Now()
	for ; t.Rounds < rounds && ctx.Err() == nil; t.Rounds++ {
		wrong, err := c.round(ctx, l)
		for _, w := range wrong {
			t.Wrong = append(t.Wrong, fmt.Sprintf("cut %d of the host: %s", t.Rounds+1, w))
		}
		t.Acks, t.Last, t.Took = c.acks.Load(), c.last, time.Since(began)
		if err != nil {
			return t, fmt.Errorf("cut %d of the host: %w", t.Rounds+1, err)
		}
	}
	return t, context.Cause(ctx)
}

// round cuts the power of a host on which lictord runs, and leaves it running
// again.
func (c *hostCutter) round(ctx context.Context, l *bed.Lictor) (wrong []string, err error) {
	if err := l.WaitSocket(ctx); err != nil {
		return nil, err
	}
	client := l.Client()
	defer client.Close()
	var calling sync.WaitGroup
	for _, one := range c.fleet {
		calling.Go(func() { _ = one.run(api{ctx, client}, &c.acks) }) // its error is the cut
	}
	time.Sleep(time.Duration(c.rng.Int64N(int64(6 * maxAlive)))) // with a sixth of the journal's pace
	err = c.disk.Cut()
	calling.Wait()
	if err := errors.Join(err, c.host.Reboot(), c.disk.Unmount(), c.disk.Mount()); err != nil {
		return nil, err
	}
	if err := errors.Join(l.Start(), l.WaitSocket(ctx)); err != nil {
		return nil, err
	}
	return c.compare(ctx, client)
}

func (c *hostCutter) compare(ctx context.Context, client *v1.Client) (wrong []string, err error) {
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	proxies, err := client.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	c.last = status.Journal.Seq
	found := map[string]string{}
	for _, p := range proxies {
		found[p.ProxyID] = p.VIP
		if len(p.Servers) == 0 {
			wrong = append(wrong, fmt.Sprintf("%s is registered and placed on no server", p.ProxyID))
		}
	}
	return append(wrong, c.fleet.check(found)...), nil
}

// api is a keeper behind lictord's socket.
type api struct {
	ctx    context.Context //nolint:containedctx // of one round, for an interface without
	client *v1.Client
}

// Register registers a proxy that anybody on the host may use: an owner would
// not outlive the power.
func (a api) Register(id string) (vip string, err error) {
	r, err := a.client.Register(a.ctx, id, v1.RegisterRequest{Owner: "any"})
	return r.VIP, err
}

// Deregister ends a registration.
func (a api) Deregister(id string) error { return a.client.Deregister(a.ctx, id) }
