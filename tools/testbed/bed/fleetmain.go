package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

func init() { reexec.Handle("fleet", fleetMain) }

// fleetMain is the fleet's process: orders on standard input, events on
// standard output, until the input ends.
func fleetMain() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &events{enc: json.NewEncoder(os.Stdout)}
	running := map[string]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	in := json.NewDecoder(os.Stdin)
	for {
		var o order
		err := in.Decode(&o)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		if stop := running[o.Remove]; stop != nil {
			stop()
			delete(running, o.Remove)
		}
		if o.Add == nil || running[o.Add.ID] != nil {
			continue
		}
		from, err := openPlace(o.Netns)
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(ctx)
		running[o.Add.ID] = stop
		client := &xds.Client{Proxy: *o.Add, OnEvent: out.write, Server: from.server}
		client.Dial = func(ctx context.Context) (net.Conn, error) { return from.dial(ctx, o.To.String()) }
		wg.Go(func() {
			_ = client.Run(ctx) // always the context's end
			from.close()
		})
	}
}

type events struct {
	mu  sync.Mutex
	enc *json.Encoder
}

// write drops what nobody reads any more: its reader is gone, and soon this
// process is too.
func (e *events) write(event xds.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.enc.Encode(event)
}

// place is a namespace to connect from; without ns it is the process's own.
type place struct {
	ns   *sandbox.Netns
	diag *netlink.Handle
}

func openPlace(path string) (place, error) {
	if path == "" {
		h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
		return place{diag: h}, err
	}
	ns, err := sandbox.OpenNetns(path)
	if err != nil {
		return place{}, err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()), unix.NETLINK_INET_DIAG)
	if err != nil {
		return place{}, errors.Join(err, ns.Close())
	}
	return place{ns: ns, diag: h}, nil
}

func (p place) close() {
	p.diag.Close()
	if p.ns != nil {
		_ = p.ns.Close() // read-only: nothing can be lost
	}
}

func (p place) dial(ctx context.Context, to string) (conn net.Conn, err error) {
	var d net.Dialer
	if p.ns == nil {
		return d.DialContext(ctx, "tcp", to)
	}
	err = p.ns.Do(func() error {
		conn, err = d.DialContext(ctx, "tcp", to)
		return err
	})
	return conn, err
}

// server is the connection's remote as the kernel has it, "" when it has ended.
func (p place) server(conn net.Conn) string {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return ""
	}
	var server netip.AddrPort
	if ctrl := raw.Control(func(fd uintptr) { server, err = remote(p.diag, int(fd)) }); ctrl != nil || err != nil || !server.IsValid() {
		return ""
	}
	return server.String()
}
