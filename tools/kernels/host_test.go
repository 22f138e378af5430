package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// patience is for an emulated processor; on a real one all takes two seconds.
const patience = 10 * time.Minute

// refused is what a VIP without a server says. Before 6.1 a hook cannot choose it.
func refused(t *testing.T) unix.Errno {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 1 {
		return unix.EPERM
	}
	return unix.ECONNREFUSED
}

// The whole way on this kernel, with a server that is no Consul: lictord is
// ready, a proxy's connect arrives, a stranger's does not, and so it stays when
// lictord is killed; after Unload a VIP leads nowhere.
func TestHostOnThisKernel(t *testing.T) {
	ctx, b := stage.New(t, patience)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	host, err := b.NewHost("host-1")
	must(err)
	pods := map[string]*bed.Pod{}
	for _, name := range []string{"web", "other", "server"} {
		pods[name], err = host.NewPod(name)
		must(err)
	}
	server := netip.AddrPortFrom(pods["server"].Addr(), 8502)
	listen(t, pods["server"], server)
	lictor, err := host.StartLictor(bed.LictorOptions{Args: []string{
		"--consul-addresses=" + server.Addr().String(), "--server-watch-disabled", fmt.Sprintf("--consul-grpc-port=%d", server.Port()),
	}})
	must(err)
	must(lictor.WaitReady(ctx))
	api := lictor.Client()
	t.Cleanup(api.Close)
	mine, err := api.Register(ctx, "web", v1.RegisterRequest{Netns: pods["web"].Netns.Path})
	must(err)
	vip := netip.AddrPortFrom(netip.MustParseAddr(mine.VIP), mine.Port)

	connect := func(from *bed.Pod, to netip.AddrPort, mapped bool, want bed.Connected) {
		t.Helper()
		got, err := from.Connect(ctx, bed.Connect{To: to, Mapped: mapped, Timeout: patience})
		must(err)
		if got.Errno != want.Errno || got.Server != want.Server || got.Peer != want.Peer {
			t.Errorf("connect from %s to %v: errno %v, server %v, peer %v; want %v, %v, %v",
				from.Name, to, got.Errno, got.Server, got.Peer, want.Errno, want.Server, want.Peer)
		}
	}
	arrives := bed.Connected{Server: server, Peer: vip}
	connect(pods["web"], vip, false, arrives)
	connect(pods["web"], vip, true, arrives)
	connect(pods["other"], vip, false, bed.Connected{Errno: unix.EPERM})
	connect(pods["web"], netip.AddrPortFrom(vip.Addr(), vip.Port()+1), false, bed.Connected{Errno: refused(t)})
	stage.Eventually(ctx, t, patience, func() error { // a busy emulated processor takes longer than a verification may
		status, err := lictor.CLI(ctx, host.Node, "status")
		if !strings.Contains(string(status), " in effect on "+host.Cgroup) {
			err = errors.Join(err, fmt.Errorf("status says no hook in effect:\n%s", status))
		}
		return err
	})

	must(lictor.Kill())
	connect(pods["web"], vip, false, arrives)
	connect(pods["other"], vip, false, bed.Connected{Errno: unix.EPERM})
	must(lictor.Start())
	must(lictor.WaitReady(ctx))
	again, err := api.Register(ctx, "web", v1.RegisterRequest{Netns: pods["web"].Netns.Path})
	must(err)
	if again.VIP != mine.VIP {
		t.Errorf("after a restart the VIP is %s, was %s", again.VIP, mine.VIP)
	}
	servers, err := api.Servers(ctx)
	must(err)
	if len(servers) != 1 || servers[0].Established != 3 || servers[0].Redirected != 3 {
		t.Errorf("servers count %+v, want one with 3 connections", servers)
	}

	must(lictor.Kill())
	_, err = lictor.CLI(ctx, host.Node, "unload", "--bpffs", host.BPFFS+"/lictor")
	must(err)
	connect(pods["web"], vip, false, bed.Connected{Errno: unix.ENETUNREACH})
}

// listen accepts on a pod until the test ends, and leaves the end to the clients.
func listen(t *testing.T, on *bed.Pod, at netip.AddrPort) {
	t.Helper()
	l, err := on.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, _ = conn.Read(make([]byte, 1)) // until the client aborts it
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
}
