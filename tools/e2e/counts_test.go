package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// The servers of the storm are addresses in the pod's own namespace, so that
// its loopback has all packets. Connects are told apart by the address that
// they come from: a local one is its own source.
const countsPort = 8502

var (
	countsServe       = []string{"10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"}
	countsHangup      = "10.77.0.5" // ends each connection at once
	countsRefuse      = "10.77.0.6" // nobody listens
	countsSilent      = "10.78.0.9" // no answer, at the end of a link
	countsSilentFrom  = "10.78.0.1"
	countsUnreachable = "10.79.0.9" // EHOSTUNREACH before a packet is sent
)

// Every connect of a storm is counted once, by the right server or reason, in
// the kernel, the metrics, the API and the storm's own tally, and each event of
// it was read or counted as dropped; with softirqs that interrupt the connects,
// an event ring that is flooded, and a daemon that is killed and restarted.
func TestCountsAreExact(t *testing.T) {
	const first, second, third = 120_000, 78_000, 2_000
	c := newCounts(t, 5*time.Minute)

	run := c.start(first)
	c.waitFor(run, first/6)
	c.must(c.lictor.Start()) // by kill -9
	c.waitFor(run, first/3)
	c.flood(run)
	c.waitFor(run, first/2)
	c.must(c.lictor.Term(c.ctx))
	c.must(c.lictor.Start())
	c.end(run)
	c.must(c.lictor.WaitReady(c.ctx))
	c.check()

	// With a follower, who is told of every event or how many he missed.
	f := c.follow()
	before := c.tally.events()
	run = c.start(second)
	c.waitFor(run, first+second/3)
	c.flood(run)
	c.end(run)
	c.check()
	f.check(before)

	// Where nobody is served, all wait.
	c.mob.Own, c.mob.Leave = c.mob.Own[:24], true
	c.end(c.start(third))
	c.check()
	c.checkServers()

	t.Logf("local failures %d, denied %v; %d events, of which %d dropped by the kernel; the follower saw %d and was told of %d dropped",
		c.tally.local(), c.tally.Denied, c.tally.events(), c.kernel.dropped(), f.seen, f.dropped)
	for addr, s := range c.tally.Servers {
		t.Logf("from %v: %+v", addr, *s)
	}
	for what, n := range map[string]uint64{
		"bounced by the server": c.tally.server(netip.MustParseAddr(countsHangup)).Bounced,
		"refused":               c.tally.server(netip.MustParseAddr(countsRefuse)).Failed,
		"unanswered":            c.tally.server(netip.MustParseAddr(countsSilentFrom)).Failed,
		"told to wait":          c.tally.Denied["waiting"],
		"failed locally":        c.tally.local(),
		"denied to strangers":   c.tally.Denied["stranger"],
	} {
		if n == 0 {
			t.Errorf("no connect was %s: the storm proves nothing about those", what)
		}
	}
}

// counts is a host whose lictord has the storm's servers, and a pod with them.
type counts struct {
	*world
	pod     *bed.Pod
	kernel  *countsKernel
	mob     mob
	tally   mobTally
	ids     map[string]string // of servers, by address
	servers *bed.Process
	stdin   *os.File
	said    *json.Decoder
}

func newCounts(t *testing.T, within time.Duration) *counts {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	c := &counts{world: &world{TB: t, ctx: ctx, bed: bed.ForTest(t)}, tally: newMobTally(), ids: map[string]string{}}
	var err error
	c.host, err = c.bed.NewHost("host-1")
	c.must(err)
	c.pod, err = c.host.NewPod("pod-1")
	c.must(err)
	c.must(c.pod.Netns.Do(countsNetwork))
	all := append([]string{countsHangup, countsRefuse, countsSilent, countsUnreachable}, countsServe...)
	c.startLictor(bed.LictorOptions{Args: []string{
		"--server-watch-disabled", fmt.Sprintf("--consul-grpc-port=%d", countsPort),
		"--consul-addresses=" + strings.Join(all, ","),
	}})
	c.startServers()
	c.register(192, 8)
	c.kernel = openCountsKernel(c.world)
	return c
}

func (c *counts) startServers() {
	c.Helper()
	in, stdin, err := os.Pipe()
	c.must(err)
	out, stdout, err := os.Pipe()
	c.must(err)
	c.Cleanup(func() { _, _ = stdin.Close(), out.Close() })
	c.stdin, c.said = stdin, json.NewDecoder(out)
	c.servers, err = c.pod.Start(bed.Command{
		Name: "servers", Path: reexec.Path, Argv0: reexec.Argv0("counts-servers"), Stdin: in, Stdout: stdout,
	})
	c.must(errors.Join(err, in.Close(), stdout.Close()))
	what := mobServers{Hangup: []netip.AddrPort{countsAt(countsHangup)}, CPUs: "3"}
	for _, a := range countsServe {
		what.Serve = append(what.Serve, countsAt(a))
	}
	c.must(json.NewEncoder(stdin).Encode(what))
	var word string
	c.must(c.said.Decode(&word))
}

func countsAt(a string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), countsPort)
}

// register makes VIPs of the pod's and of somebody else's.
func (c *counts) register(own, foreign int) {
	c.Helper()
	client := c.lictor.Client()
	defer client.Close()
	vips := make([]netip.AddrPort, own+foreign)
	var group errgroup.Group
	group.SetLimit(16) // commits are shared
	for i := range vips {
		ns := c.pod.Netns.Path
		if i >= own {
			ns = c.host.Netns.Path
		}
		group.Go(func() error {
			r, err := client.Register(c.ctx, fmt.Sprintf("proxy-%d", i), v1.RegisterRequest{Netns: ns})
			if err != nil {
				return err
			}
			vips[i] = netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
			return nil
		})
	}
	c.must(group.Wait())
	c.mob = mob{
		Own: vips[:own], Foreign: vips[own:], Threads: 6,
		Unknown: []netip.AddrPort{netip.MustParseAddrPort("239.77.255.1:8702"), netip.AddrPortFrom(vips[0].Addr(), 1234)},
		Silent:  netip.MustParseAddr(countsSilentFrom), Hangup: netip.MustParseAddr(countsHangup),
	}
	list, err := client.Servers(c.ctx)
	c.must(err)
	for _, s := range list {
		c.ids[s.Addresses[0]] = s.ID
	}
}

// mobRun is a storm under way.
type mobRun struct {
	done chan struct{}
	out  []byte
	err  error
}

func (c *counts) start(connects int) *mobRun {
	c.Helper()
	m := c.mob
	m.Connects = connects
	text, err := json.Marshal(m)
	c.must(err)
	run := &mobRun{done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.out, run.err = c.pod.Run(c.ctx, bed.Command{
			Name: "mob", Path: reexec.Path, Argv0: reexec.Argv0("counts-mob"), Stdin: bytes.NewReader(text),
		})
	}()
	return run
}

// waitFor waits until the kernel has counted that many connects.
func (c *counts) waitFor(run *mobRun, connects uint64) {
	c.Helper()
	for c.kernel.connects() < connects {
		select {
		case <-run.done:
			c.Fatalf("the storm ended after %d connects, before %d: %v", c.kernel.connects(), connects, run.err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// flood freezes the daemon until the ring has been full for a while.
func (c *counts) flood(run *mobRun) {
	c.Helper()
	c.must(c.lictor.Stop())
	was := c.kernel.dropped()
	for c.kernel.dropped() < was+2000 {
		select {
		case <-run.done:
			c.Fatalf("the storm ended before the ring was full: %v", run.err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	c.must(c.lictor.Cont())
}

// end waits for the storm's end and adds its tally.
func (c *counts) end(run *mobRun) {
	c.Helper()
	<-run.done
	c.must(run.err)
	t := newMobTally()
	c.must(json.Unmarshal(run.out, &t))
	c.tally.add(t)
	if n := len(t.Unexplained); n > 0 {
		c.Fatalf("%d connects had an outcome that nothing explains, such as: %v", n, t.Unexplained[:min(n, 10)])
	}
}

// countsNetwork makes the servers' addresses in the calling thread's namespace.
func countsNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range append([]string{countsHangup, countsRefuse}, countsServe...) {
		addr, err := netlink.ParseAddr(a + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("give lo %s: %w", a, err)
		}
	}
	// Frames to a neighbour that nobody is: sent, and dropped at the other end.
	silent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "silent"}, PeerName: "nobody"}
	if err := netlink.LinkAdd(silent); err != nil {
		return fmt.Errorf("make a pair of links: %w", err)
	}
	addr, err := netlink.ParseAddr(countsSilentFrom + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(silent, addr); err != nil {
		return fmt.Errorf("give %s %v: %w", silent.Name, addr, err)
	}
	for _, name := range []string{silent.Name, silent.PeerName} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
	}
	link, err := netlink.LinkByName(silent.Name)
	if err != nil {
		return err
	}
	neigh := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(countsSilent), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 99},
	}
	if err := netlink.NeighAdd(neigh); err != nil {
		return fmt.Errorf("make a neighbour: %w", err)
	}
	_, none, err := net.ParseCIDR(countsUnreachable + "/32")
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: none, Type: unix.RTN_UNREACHABLE}); err != nil {
		return fmt.Errorf("make %s unreachable: %w", countsUnreachable, err)
	}
	// Ports are used again sooner than after a minute.
	for name, value := range map[string]string{"ip_local_port_range": "1024 65535", "tcp_tw_reuse": "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}
