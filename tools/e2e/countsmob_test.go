package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

func init() { reexec.Handle("counts-mob", mobMain) }

// mob says who connects where, and how often in all.
type mob struct {
	Own      []netip.AddrPort // VIPs that the mob's namespace owns; each is used by one thread
	Foreign  []netip.AddrPort // VIPs that it does not
	Unknown  []netip.AddrPort // addresses of the pool that are no VIPs
	Silent   netip.Addr       // connects from this address are to the server that never answers
	Hangup   netip.Addr       // and from this one to the server that ends them
	Leave    bool             // all leave
	Threads  int
	Connects int
}

// serverTally is what the mob saw of one server, known by the address from
// which its connects go there.
type serverTally struct {
	Redirected, Attempted, Established, Failed, Bounced, In, Out uint64
}

// mobTally is what became of all connects, by whoever made them.
type mobTally struct {
	Servers map[netip.Addr]*serverTally
	// LocalFailures by VIP, and those VIPs whose last connect failed so: the
	// kernel reports a local failure at the VIP's next connect.
	LocalFailures map[netip.AddrPort]uint64
	LastLocal     map[netip.AddrPort]bool
	Denied        map[string]uint64 // by reason
	Slow          uint64            // bounces that took so long that they may be none
	Unexplained   []string
}

func newMobTally() mobTally {
	return mobTally{
		Servers: map[netip.Addr]*serverTally{}, Denied: map[string]uint64{},
		LocalFailures: map[netip.AddrPort]uint64{}, LastLocal: map[netip.AddrPort]bool{},
	}
}

func (t *mobTally) server(a netip.Addr) *serverTally {
	if t.Servers[a] == nil {
		t.Servers[a] = &serverTally{}
	}
	return t.Servers[a]
}

// add sums a later tally into an earlier one.
func (t *mobTally) add(o mobTally) {
	for a, n := range o.Servers {
		s := t.server(a)
		s.Redirected += n.Redirected
		s.Attempted += n.Attempted
		s.Established += n.Established
		s.Failed += n.Failed
		s.Bounced += n.Bounced
		s.In += n.In
		s.Out += n.Out
	}
	for vip, n := range o.LocalFailures {
		t.LocalFailures[vip] += n
	}
	for vip, last := range o.LastLocal {
		t.LastLocal[vip] = last
	}
	for reason, n := range o.Denied {
		t.Denied[reason] += n
	}
	t.Slow += o.Slow
	t.Unexplained = append(t.Unexplained, o.Unexplained...)
}

// noticed is how many local failures the kernel has had occasion to report.
func (t *mobTally) noticed() (n uint64) {
	for vip, k := range t.LocalFailures {
		n += k
		if t.LastLocal[vip] {
			n--
		}
	}
	return n
}

func (t *mobTally) local() (n uint64) {
	for _, k := range t.LocalFailures {
		n += k
	}
	return n
}

// events is how many events the kernel has made of it, dropped ones included:
// one for each denial and failure, two for what was established.
func (t *mobTally) events() uint64 {
	n := t.noticed()
	for _, k := range t.Denied {
		n += k
	}
	for _, s := range t.Servers {
		n += 2*s.Established + s.Failed
	}
	return n
}

func mobMain() error {
	var m mob
	if err := json.NewDecoder(os.Stdin).Decode(&m); err != nil {
		return err
	}
	total := newMobTally()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range m.Threads {
		wg.Go(func() {
			runtime.LockOSThread() // the kernel tells threads apart
			defer runtime.UnlockOSThread()
			t := newMobTally()
			for n := i; n < m.Connects; n += m.Threads {
				m.one(i, n/m.Threads, &t)
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(t)
		})
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(total)
}

// one makes the n-th connect of a thread: of twenty, thirteen to VIPs of its
// own, three to somebody else's, two to none, two datagrams.
func (m mob) one(thread, n int, t *mobTally) {
	switch k := n % 20; {
	case k < 13 || m.Leave:
		mine := (len(m.Own) - thread + m.Threads - 1) / m.Threads
		if !m.Leave {
			n = n/20*13 + k // of those to its own
		}
		i := n % mine
		how := n / mine % 3
		if m.Leave || i%4 == 3 {
			how = leave
		}
		m.own(m.Own[thread+i*m.Threads], how, t)
	case k < 16:
		m.denied(m.Foreign[n%len(m.Foreign)], unix.EPERM, "stranger", t)
	case k < 18:
		m.denied(m.Unknown[n%len(m.Unknown)], unix.ECONNREFUSED, "no-entry", t)
	default:
		m.datagram(m.Own[thread], t)
	}
}

func (m mob) denied(to netip.AddrPort, want unix.Errno, reason string, t *mobTally) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		defer unix.Close(fd)
		err = connectFD(fd, to)
	}
	if err != want {
		t.Unexplained = append(t.Unexplained, fmt.Sprintf("%s: %v", reason, err))
		return
	}
	t.Denied[reason]++
}

func (m mob) datagram(to netip.AddrPort, t *mobTally) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}
	if err != unix.EPERM {
		t.Unexplained = append(t.Unexplained, fmt.Sprintf("datagram: %v", err))
		return
	}
	t.Denied["udp-send"]++
}

func connectFD(fd int, to netip.AddrPort) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		if err != unix.EINTR {
			return err
		}
	}
}

// What a client does with a connection that is up.
const (
	askAndClose = iota // no bounce: it is served
	abort              // no bounce: its own reset
	askAndAbort
	// A bounce: nothing was received. The host avoids a server for it, so that
	// such VIPs go from one server to the next, and wait, all the time.
	leave
)

// patience of those who leave, with a server that does not answer: the host
// takes it for dead. The others give up sooner than it does.
const patience = 250 * time.Millisecond

// own connects to a VIP of the mob's. A connect that does not block tells who
// refused it: the host does at once, and before the socket has an address; the
// address shows where the host sent it.
func (m mob) own(vip netip.AddrPort, how int, t *mobTally) {
	started := time.Now()
	unexplained := func(what string, err error) {
		t.Unexplained = append(t.Unexplained, fmt.Sprintf("%v: %s: %v", vip, what, err))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		unexplained("socket", err)
		return
	}
	defer unix.Close(fd)
	err = connectFD(fd, vip)
	t.LastLocal[vip] = err == unix.EHOSTUNREACH
	switch err {
	case unix.EHOSTUNREACH:
		t.LocalFailures[vip]++
		return
	case unix.ECONNREFUSED:
		t.Denied["waiting"]++
		return
	case unix.EINPROGRESS:
	default:
		unexplained("connect", err)
		return
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unexplained("getsockname", err)
		return
	}
	from := netip.AddrFrom4(name.(*unix.SockaddrInet4).Addr)
	s := t.server(from)
	s.Redirected++
	s.Attempted++
	if from == m.Silent {
		s.Failed++
		if how == leave {
			time.Sleep(patience)
		}
		return
	}
	var bounced bool
	switch err := outcomeFD(fd); err {
	case nil:
		if from == m.Hangup {
			how = askAndClose // who aborts might be first
		}
		bounced, err = m.use(fd, how, s)
		if err != nil {
			unexplained("use", err)
		}
	case unix.ECONNREFUSED:
		s.Failed++
		return
	case unix.ECONNRESET: // established, and reset by the server before we looked
		bounced = true
	default:
		unexplained("outcome", err)
		return
	}
	s.Established++
	if bounced {
		s.Bounced++
		if time.Since(started) > 1500*time.Millisecond {
			t.Slow++
		}
	}
}

// use does with a connection what the client wants, and says whether that is a
// bounce. The socket is closed after.
func (m mob) use(fd, how int, s *serverTally) (bounced bool, err error) {
	switch how {
	case leave:
		return true, nil
	case abort:
		return false, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if _, err := unix.Write(fd, []byte("?")); err != nil {
		return true, nil //nolint:nilerr // the server has hung up
	}
	var buf [2 * served]byte
	for got := 0; got < served; {
		if err := wait(fd, unix.POLLIN); err != nil {
			return false, err
		}
		n, err := unix.Read(fd, buf[:])
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return true, nil //nolint:nilerr // likewise
		}
		got += n
	}
	s.In += served
	s.Out++
	if how == askAndAbort {
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return false, err
}

func outcomeFD(fd int) error {
	if err := wait(fd, unix.POLLOUT); err != nil {
		return err
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		return syscall.Errno(code)
	}
	return err
}

func wait(fd int, events int16) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		n, err := unix.Poll(fds, 30_000)
		if n > 0 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
	return io.ErrNoProgress
}
