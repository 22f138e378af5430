package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

func init() { reexec.Handle("counts-servers", mobServersMain) }

// served is what a server sends to who asks: enough to be no refusal.
const served = 2048

// mobServers are listeners in the mob's own namespace.
type mobServers struct {
	Serve  []netip.AddrPort // answer a byte by served bytes
	Hangup []netip.AddrPort // end each connection at once, by FIN or by reset
	CPUs   string           // mask of the CPUs to which the loopback hands packets
}

// mobServersMain listens until its input ends, and then says how many
// connections each listener accepted.
func mobServersMain() error {
	in := json.NewDecoder(os.Stdin)
	var s mobServers
	if err := in.Decode(&s); err != nil {
		return err
	}
	if err := steerLoopback(s.CPUs); err != nil {
		return fmt.Errorf("steer packets: %w", err)
	}
	accepted := map[string]*atomic.Uint64{}
	var all []net.Listener
	var wg sync.WaitGroup
	for _, l := range []struct {
		at     []netip.AddrPort
		handle func(*net.TCPConn, uint64)
	}{{s.Serve, serveByte}, {s.Hangup, hangUp}} {
		for _, addr := range l.at {
			listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
			if err != nil {
				return err
			}
			n := &atomic.Uint64{}
			accepted[addr.String()] = n
			all = append(all, listener)
			wg.Go(func() {
				for {
					conn, err := listener.AcceptTCP()
					if err != nil {
						return
					}
					go l.handle(conn, n.Add(1))
				}
			})
		}
	}
	fmt.Println(`"listening"`)
	var more any
	_ = in.Decode(&more) // returns at the end of the input
	for _, l := range all {
		l.Close()
	}
	wg.Wait()
	totals := map[string]uint64{}
	for addr, n := range accepted {
		totals[addr] = n.Load()
	}
	return json.NewEncoder(os.Stdout).Encode(totals)
}

func serveByte(conn *net.TCPConn, _ uint64) {
	defer conn.Close()
	var ask [1]byte
	if _, err := conn.Read(ask[:]); err != nil {
		return
	}
	if _, err := conn.Write(make([]byte, served)); err != nil {
		return
	}
	_, _ = conn.Read(ask[:]) // until the client is done
}

func hangUp(conn *net.TCPConn, n uint64) {
	if n%2 == 0 {
		_ = conn.SetLinger(0)
	}
	conn.Close()
}

// steerLoopback makes packets on lo run in softirqs of those CPUs, which
// interrupt whoever connects, as a network card's do.
func steerLoopback(cpus string) error {
	runtime.LockOSThread() // and never back: its mounts are no other thread's
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sysfs-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil { // of the thread's namespace
		return err
	}
	err = os.WriteFile(filepath.Join(dir, "class/net/lo/queues/rx-0/rps_cpus"), []byte(cpus), 0)
	return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
}
