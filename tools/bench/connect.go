package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

func init() { reexec.Handle("bench-connect", connectorMain) }

// A block is that many connects in a row, of which the median counts: who is
// interrupted is no outlier then. Blocks of all variants alternate, some two
// thousand of each.
const (
	connectsABlock = 25
	connectBlocks  = 2000
	connectWarmup  = 100 // blocks that are not counted
)

// connector is a process that connects on demand, in a cgroup with the hook or
// in one without.
type connector struct {
	proc *bed.Process
	in   *os.File
	out  *bufio.Reader
}

func startConnector(n *bed.Node, cgroup string) (*connector, error) {
	in, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answer, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p, err := n.Start(bed.Command{
		Name: "connector", Path: reexec.Path, Argv0: reexec.Argv0("bench-connect"), Cgroup: cgroup, Stdin: in, Stdout: out,
	})
	return &connector{p, ask, bufio.NewReader(answer)}, errors.Join(err, in.Close(), out.Close())
}

// block has the connector make a block of connects and returns their median in
// nanoseconds.
func (c *connector) block(to netip.AddrPort) (float64, error) {
	if err := json.NewEncoder(c.in).Encode(to); err != nil {
		return 0, err
	}
	var ns float64
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return 0, fmt.Errorf("connector ended: %w: %s", err, c.proc.Tail(500))
	}
	return ns, json.Unmarshal(line, &ns)
}

// connectorMain connects by bare system calls on one thread. All connectors share
// one CPU: two may be unlike, by what else runs there.
func connectorMain() error {
	runtime.LockOSThread()
	var cpu unix.CPUSet
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return fmt.Errorf("stay on the first CPU: %w", err)
	}
	in := json.NewDecoder(os.Stdin)
	took := make([]float64, connectsABlock)
	for {
		var to netip.AddrPort
		if err := in.Decode(&to); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
		for i := range took {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			// A reset leaves no TIME_WAIT, of which there would soon be too many.
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return err
			}
			started := time.Now()
			_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
			_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
			took[i] = float64(time.Since(started).Nanoseconds())
			if errno != 0 {
				return fmt.Errorf("connect to %v: %w", to, errno)
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(median(took)); err != nil {
			return err
		}
	}
}

// benchConnect compares connect and close of five kinds, twice without any
// hook, by two processes: what these differ by is what the method cannot see.
func benchConnect(ctx context.Context, b *bed.Bed, r *report) (err error) {
	host, err := b.NewHost("connect")
	if err != nil {
		return err
	}
	outside, err := b.NewHost("outside")
	if err != nil {
		return err
	}
	storing, err := b.NewHost("storing")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Remove(), outside.Remove(), storing.Remove()) }()
	l, err := host.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	go acceptAll(l)
	server := l.Addr().(*net.TCPAddr).AddrPort()

	vip := netip.MustParseAddrPort("239.77.0.5:8702")
	k, err := kernel.Open(ctx, kernel.Config{
		BPFFS: filepath.Join(host.BPFFS, "lictor"), Cgroup: host.Cgroup,
		Pool4: netip.MustParsePrefix("239.77.0.0/16"), Pool6: netip.MustParsePrefix("ff05::7777:0:0/96"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close(), kernel.Unload(filepath.Join(host.BPFFS, "lictor"))) }()
	events, stop := context.WithCancel(ctx)
	read := make(chan error)
	go func() { read <- k.Events(events, func(kernel.Event) {}) }() // as a daemon does
	defer func() { stop(); err = errors.Join(err, <-read) }()
	cookie, err := host.Netns.Cookie()
	if err != nil {
		return err
	}
	entry := kernel.VIP{
		Key: kernel.VIPKey{Addr: vip, Proto: kernel.ProtoTCP}, Slot: 5, Set: 1,
		Owner:  kernel.Owner{Kind: kernel.OwnerNetns, ID: cookie},
		Ranked: []kernel.Backend{{Slot: 1, Addr: server}},
	}
	if err := errors.Join(k.PutVIPs([]kernel.VIP{entry}), k.Attach(ctx)); err != nil {
		return err
	}
	remove, err := attachFloor(storing.Cgroup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	bare, err := startConnector(host.Node, outside.Cgroup)
	if err != nil {
		return err
	}
	control, err := startConnector(host.Node, outside.Cgroup)
	if err != nil {
		return err
	}
	hooked, err := startConnector(host.Node, host.Cgroup)
	if err != nil {
		return err
	}
	floor, err := startConnector(host.Node, storing.Cgroup)
	if err != nil {
		return err
	}
	samples, err := alternate(ctx, []variant{
		{"bare", bare, server}, {"control", control, server}, {"floor", floor, server},
		{"unrelated", hooked, server}, {"vip", hooked, vip},
	}, r)
	if err != nil {
		return err
	}
	over := func(name string) estimate { return bootstrap(differences(samples[name], samples["bare"])) }
	r.add(
		row{what: "connect and close, bare", unit: "ns", got: bootstrap(samples["bare"])},
		row{what: "  a second bare one, over it", unit: "ns", got: over("control"), note: "what the method cannot tell"},
		row{what: "  socket storage and timeouts alone", unit: "ns", got: over("floor"), note: "the kernel's own part of a VIP's"},
		row{what: "  unrelated, hook loaded, over it", unit: "ns", wanted: 300, got: over("unrelated")},
		row{what: "  VIP, over it", unit: "ns", wanted: 2500, got: over("vip"), note: "kernel/README.md says what each part costs"},
		row{what: "  VIP, as a multiple", unit: "x", got: bootstrap(ratios(samples["vip"], samples["bare"]))},
	)
	return nil
}

type variant struct {
	name string
	by   *connector
	to   netip.AddrPort
}

// alternate takes blocks of all variants in turn, beginning with another one
// each time, so that none is always behind the same.
func alternate(ctx context.Context, variants []variant, r *report) (map[string][]float64, error) {
	samples := map[string][]float64{}
	for round := range connectWarmup + connectBlocks {
		for i := range variants {
			v := variants[(round+i)%len(variants)]
			ns, err := v.by.block(v.to)
			if err != nil {
				return nil, err
			}
			if round >= connectWarmup {
				samples[v.name] = append(samples[v.name], ns)
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	for _, v := range variants {
		// benchstat takes its own medians: of some twenty samples each.
		const per = connectBlocks / 20
		for i := range 20 {
			some := append([]float64(nil), samples[v.name][i*per:(i+1)*per]...)
			r.sample("Connect/"+v.name, per*connectsABlock, median(some))
		}
	}
	return samples, nil
}

// acceptAll leaves it to clients to end connections: a server that does is one
// that refuses, and a VIP would avoid it.
func acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1))
		}()
	}
}
