package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// storm connects to VIPs without a pause until stop, each connection ending by
// a reset, and checks who answers.
type storm struct {
	wg       sync.WaitGroup
	stopped  atomic.Bool
	connects atomic.Uint64
	failed   atomic.Pointer[error]
}

// storm starts a thread for each VIP; may says which servers may answer.
func (r *rig) storm(may map[netip.AddrPort][]netip.AddrPort) *storm {
	s := &storm{}
	for vip, servers := range may {
		s.wg.Go(func() {
			err := r.ns.Do(func() error {
				for !s.stopped.Load() {
					if err := connectTo(vip, servers); err != nil {
						return fmt.Errorf("connect %d to %v: %w", s.connects.Load(), vip, err)
					}
					s.connects.Add(1)
				}
				return nil
			})
			if err != nil {
				s.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	return s
}

// connectTo makes one connection and asks its server for its name.
func connectTo(vip netip.AddrPort, servers []netip.AddrPort) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	// No TIME_WAIT, of which a storm would soon have too many.
	if err := unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(s, sockaddr(vip)); err != nil {
		return err
	}
	if len(servers) == 0 {
		return nil
	}
	b := make([]byte, 64)
	n, err := unix.Read(s, b)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for _, may := range servers {
		if string(b[:n]) == may.String()+"\n" {
			return nil
		}
	}
	return fmt.Errorf("reached %q, which is none of %v", b[:n], servers)
}

func (s *storm) stop(t testing.TB) uint64 {
	t.Helper()
	s.stopped.Store(true)
	s.wg.Wait()
	if err := s.failed.Load(); err != nil {
		t.Error(*err)
	}
	return s.connects.Load()
}

// wait until the storm has made some more connects.
func (s *storm) wait(t *testing.T, more uint64) {
	t.Helper()
	from := s.connects.Load()
	for end := time.Now().Add(time.Minute); s.connects.Load() < from+more && s.failed.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("the storm made %d connects in a minute, want %d", s.connects.Load()-from, more)
			return
		}
	}
}

// A daemon that is killed and started as another version, again and again: no
// connect fails, and nothing is counted twice or not at all.
func TestRestartUnderAConnectStorm(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	vips := map[netip.AddrPort][]netip.AddrPort{}
	for i := range 3 {
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 77, 1, byte(i + 1)}), 8702)
		vips[vip] = []netip.AddrPort{s.Addr}
		r.put(vip, s.Backend)
	}
	storm := r.storm(vips)
	for i := range 10 {
		storm.wait(t, 50)
		if err := r.k.Close(); err != nil {
			t.Fatal(err)
		}
		r.cfg.BounceBytes = uint32(1000 + i) // another program than before
		r.open()
		if got := len(must(r.k.VIPs())); got != len(vips) {
			t.Errorf("%d VIPs after restart %d", got, i)
		}
		if err := r.k.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	storm.wait(t, 50)
	n := storm.stop(t)
	r.wantCounters(1, Counters{Redirected: n, Attempted: n, Established: n, Closed: n})
}

// wider is a version whose maps of counters and states have values of another
// size, pinned under a lower number than this version's.
func wider() version {
	v := version{layouts: maps.Clone(thisVersion.layouts)}
	changed := []string{lictorMapVipState, lictorMapServerState, lictorMapServerCounters, lictorMapServerLatency, lictorMapReasons, lictorMapMeta}
	for _, name := range changed {
		v.layouts[name]--
	}
	v.load = func() (*ebpf.CollectionSpec, error) {
		spec, err := loadLictor()
		for _, name := range changed {
			m := spec.Maps[name]
			m.Key, m.Value = nil, nil // the types would not be of that size
			m.ValueSize += 40
		}
		return spec, err
	}
	return v
}

func TestLayoutIsMigratedUnderAConnectStorm(t *testing.T) {
	r := newRigDetached(t, neverBounced)
	reopen := func(v version) {
		t.Helper()
		if err := r.k.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if r.k, err = v.open(t.Context(), r.cfg); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.k.Close(), Unload(r.cfg.BPFFS)); err != nil { // as if there never was this version
		t.Fatal(err)
	}
	var err error
	if r.k, err = wider().open(t.Context(), r.cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, dead := r.serve(1, "127.0.0.1:0", echo), r.closedPort(2)
	r.put(vip4, s.Backend)
	other := netip.AddrPortFrom(netip.MustParseAddr("239.77.0.6"), 8702)
	r.putVIP(VIP{Key: VIPKey{Addr: other, Proto: ProtoTCP}, Slot: 6, Set: 1, Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{dead}})
	r.wantErr(other, syscall.ECONNREFUSED)
	kept, err := r.dial(vip4) // lives through it all
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	storm := r.storm(map[netip.AddrPort][]netip.AddrPort{vip4: {s.Addr}})
	storm.wait(t, 100)

	// The former version's maps are read through the other layout from here on.
	reopen(thisVersion)
	storm.wait(t, 100) // the former programs are still in effect
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	storm.wait(t, 100)
	reopen(thisVersion) // a restart after the migration
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	storm.wait(t, 100)
	n := storm.stop(t)
	r.wantCounters(1, Counters{Redirected: n + 1, Attempted: n + 1, Established: n + 1, Closed: n})
	r.wantCounters(2, Counters{Redirected: 1, Attempted: 1, Failed: 1})
	if drift := must(r.k.Recount()); len(drift) != 0 {
		t.Errorf("drift %v", drift)
	}
	st := must(r.k.VIPState(5))
	st.Counters.BytesIn, st.Counters.BytesOut = 0, 0
	if want := (Counters{Redirected: n + 1, Attempted: n + 1, Established: n + 1, Closed: n}); st.Counters != want {
		t.Errorf("VIP counted %+v, want %+v", st.Counters, want)
	}
	st = must(r.k.VIPState(6))
	if len(st.Holds) != 1 || st.Holds[0].Slot != 2 || st.Holds[0].Reason != HoldFailed {
		t.Errorf("holds of the other VIP %+v, want server 2", st.Holds)
	}
	if must(r.k.Refused())[2] == 0 {
		t.Error("server 2's refusal is forgotten")
	}
	kept.Close()
	r.wantCounters(1, Counters{Redirected: n + 1, Attempted: n + 1, Established: n + 1, Closed: n + 1})
	have := must(r.k.pins.scan())
	for _, name := range []string{lictorMapServerState, lictorMapMeta} {
		if got := have.maps[name]; len(got) != 1 || got[0] != thisVersion.layouts[name] {
			t.Errorf("map %s is still pinned with layouts %v", name, got)
		}
	}
}

// Entries of a layout with fewer members are decoded by the version that knows it.
func TestFormerEntriesAreDecoded(t *testing.T) {
	r := newRigDetached(t, neverBounced)
	if err := errors.Join(r.k.Close(), Unload(r.cfg.BPFFS)); err != nil {
		t.Fatal(err)
	}
	s := r.serve(1, "127.0.0.1:0", echo)
	const layout = 0
	former := must(ebpf.NewMap(&ebpf.MapSpec{Name: "vips", Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 16}))
	defer former.Close()
	key := append(vip4.Addr().AsSlice(), 0, 0, 0, 0)
	value := append(s.Addr.Addr().AsSlice(), binary.BigEndian.AppendUint16(nil, s.Addr.Port())...)
	value = append(value, 0, 5)
	if err := former.Put(key, value); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.cfg.BPFFS, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := former.Pin((&pinDir{path: r.cfg.BPFFS}).mapPath(lictorMapVips, layout)); err != nil {
		t.Fatal(err)
	}
	if k, err := Open(t.Context(), r.cfg); err == nil {
		k.Close()
		t.Fatal("a layout that nobody can read was accepted")
	}
	v := thisVersion
	v.decoders = map[int]func(key, value []byte) (VIP, error){layout: func(key, value []byte) (VIP, error) {
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte(value[:4])), binary.BigEndian.Uint16(value[4:]))
		return VIP{Key: VIPKey{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte(key[:4])), 8702), Proto: ProtoTCP},
			Slot: uint32(value[7]), Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{{Slot: 1, Addr: server}}}, nil
	}}
	var err error
	if r.k, err = v.open(t.Context(), r.cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.reach(vip4); got != s.Addr.String() {
		t.Errorf("reached %s", got)
	}
}

func TestANewerLayoutIsRefused(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	if err := r.k.Close(); err != nil {
		t.Fatal(err)
	}
	m := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}))
	path := filepath.Join(r.cfg.BPFFS, "reasons_v99")
	if err := errors.Join(m.Pin(path), m.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrNewer) {
		t.Errorf("opened a newer layout: %v", err)
	}
	if got := r.reach(vip4); got != s.Addr.String() {
		t.Errorf("the hook in effect now reaches %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Error(err)
	}
	r.open()
}
