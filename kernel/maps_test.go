package kernel

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
)

func vipN(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 77, byte(i >> 8), byte(i)}), 8702)
}

func TestVIPsAreReadAsTheyWereWritten(t *testing.T) {
	r := newRigDetached(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var want []VIP
	for i := 1; i <= 5000; i++ { // more than one batch
		v := VIP{
			Key: VIPKey{Addr: vipN(i), Proto: ProtoTCP}, Slot: uint32(i), Set: rng.Uint32(),
			Owner: Owner{Kind: OwnerKind(rng.IntN(4)), ID: rng.Uint64(), Level: rng.Uint32()},
		}
		server := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		if i%2 == 0 {
			v.Key.Addr = netip.AddrPortFrom(vip6.Addr(), uint16(i))
			server = netip.MustParseAddr("2001:db8::1")
		}
		for range rng.IntN(MaxRanked + 1) {
			v.Ranked = append(v.Ranked, Backend{
				Slot: uint16(1 + rng.IntN(MaxServers-1)), Addr: netip.AddrPortFrom(server, uint16(1+rng.IntN(65535))),
			})
		}
		want = append(want, v)
	}
	for range 2 { // the same again changes nothing
		if err := r.k.PutVIPs(want); err != nil {
			t.Fatal(err)
		}
	}
	byKey := func(a, b VIP) int {
		return cmp.Or(a.Key.Addr.Compare(b.Key.Addr), cmp.Compare(a.Key.Proto, b.Key.Proto))
	}
	slices.SortFunc(want, byKey)
	got := must(r.k.VIPs())
	slices.SortFunc(got, byKey)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %d VIPs, which are not the %d that were written", len(got), len(want))
	}
	slow := 0
	err := r.k.entriesOneByOne(func(key lictorVipKey, value *lictorVip) {
		if v := vipOf(key, value); v.Slot != 0 {
			slow++
		}
	})
	if err != nil || slow != len(want) {
		t.Errorf("read %d VIPs one by one, %v", slow, err)
	}
	var gone []VIPKey
	for _, v := range want[:4000] {
		gone = append(gone, v.Key)
	}
	for range 2 { // absent is a success
		if err := r.k.DeleteVIPs(gone); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(must(r.k.VIPs())); got != 1000 {
		t.Errorf("%d VIPs are left, want 1000", got)
	}
}

func TestWhatCannotBeAnEntryIsRefused(t *testing.T) {
	r := newRigDetached(t)
	server := Backend{Slot: 1, Addr: netip.MustParseAddrPort("10.0.0.1:8502")}
	for name, change := range map[string]func(*VIP){
		"outside the pools": func(v *VIP) { v.Key.Addr = netip.MustParseAddrPort("239.78.0.1:8702") },
		"the probe's":       func(v *VIP) { v.Key.Addr = netip.AddrPortFrom(pool4.Addr(), 8702) },
		"port 0":            func(v *VIP) { v.Key.Addr = netip.AddrPortFrom(vip4.Addr(), 0) },
		"v4-mapped key":     func(v *VIP) { v.Key.Addr = netip.AddrPortFrom(netip.AddrFrom16(vip4.Addr().As16()), 8702) },
		"no key":            func(v *VIP) { v.Key = VIPKey{} },
		"slot 0":            func(v *VIP) { v.Slot = 0 },
		"slot too high":     func(v *VIP) { v.Slot = uint32(MaxVIPs) },
		"too many servers":  func(v *VIP) { v.Ranked = slices.Repeat([]Backend{server}, MaxRanked+1) },
		"server slot 0":     func(v *VIP) { v.Ranked[0].Slot = 0 },
		"server slot high":  func(v *VIP) { v.Ranked[0].Slot = uint16(MaxServers) },
		"server port 0":     func(v *VIP) { v.Ranked[0].Addr = netip.AddrPortFrom(server.Addr.Addr(), 0) },
		"other family":      func(v *VIP) { v.Ranked[0].Addr = netip.MustParseAddrPort("[::1]:8502") },
		"v4-mapped server":  func(v *VIP) { v.Ranked[0].Addr = netip.MustParseAddrPort("[::ffff:10.0.0.1]:8502") },
		"no server address": func(v *VIP) { v.Ranked[0].Addr = netip.AddrPort{} },
		"kind of owner":     func(v *VIP) { v.Owner.Kind = OwnerAny + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			good := VIP{Key: VIPKey{Addr: vip4, Proto: ProtoTCP}, Slot: 1, Ranked: []Backend{server}}
			bad := good
			bad.Ranked = slices.Clone(good.Ranked)
			change(&bad)
			if err := r.k.PutVIPs([]VIP{good, bad}); err == nil {
				t.Error("accepted")
			}
			if got := must(r.k.VIPs()); len(got) != 0 {
				t.Errorf("wrote %v all the same", got)
			}
		})
	}
}

func TestDamagedEntriesDenyAndAreSeen(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	key := keyWords(VIPKey{Addr: vip4, Proto: ProtoTCP})
	for name, harm := range map[string]func(*lictorVip){
		"another server":  func(w *lictorVip) { w.Ranked[0].Addr = addrWords(netip.MustParseAddr("127.0.0.2")) },
		"another owner":   func(w *lictorVip) { w.OwnerKind = uint8(OwnerAny) },
		"another address": func(w *lictorVip) { w.Key.Addr[3]++; w.Sum = vipSum(w) }, // all of another entry
		"another port":    func(w *lictorVip) { w.Key.Port++; w.Sum = vipSum(w) },
		"another proto":   func(w *lictorVip) { w.Key.Proto++; w.Sum = vipSum(w) },
		"a generation":    func(w *lictorVip) { w.GenLast++ },
		"the sum":         func(w *lictorVip) { w.Sum++ },
		"too many":        func(w *lictorVip) { w.N = 200; w.Sum = vipSum(w) },
		"a slot too high": func(w *lictorVip) { w.Slot = 1 << 20; w.Sum = vipSum(w) },
	} {
		t.Run(name, func(t *testing.T) {
			r.put(vip4, s.Backend)
			var w lictorVip
			if err := r.k.objs.Vips.Lookup(key, &w); err != nil {
				t.Fatal(err)
			}
			harm(&w)
			if err := r.k.objs.Vips.Update(key, w, ebpf.UpdateExist); err != nil {
				t.Fatal(err)
			}
			before := r.reasons()[ReasonTorn]
			r.wantErr(vip4, syscall.ECONNREFUSED)
			if got := r.reasons()[ReasonTorn]; got != before+1 {
				t.Errorf("counted %d torn, want one more", got-before)
			}
			if got := must(r.k.VIPs()); len(got) != 1 || name != "a slot too high" && len(got[0].Ranked) != 0 {
				t.Errorf("read %+v", got)
			}
		})
	}
}

func TestMeta(t *testing.T) {
	r := newRigDetached(t)
	if m := must(r.k.Meta()); m != (Meta{}) {
		t.Errorf("new: %+v", m)
	}
	want := Meta{Journal: [16]byte{1, 2, 15: 16}, LastPromise: 1 << 40}
	if err := r.k.SetMeta(want); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	if m := must(r.k.Meta()); m != want {
		t.Errorf("after a restart: %+v", m)
	}
}

func TestAResetSlotIsAsNew(t *testing.T) {
	r := newRig(t)
	r.put(vip4, r.closedPort(1))
	for range 3 {
		r.wantErr(vip4, syscall.ECONNREFUSED)
	}
	if st := must(r.k.VIPStates([]uint32{6, 5}))[1]; st.Slot != 5 || len(st.Holds) == 0 || st.WaitUntil == 0 || st.LastSlot != 1 || st.Counters.Failed != 2 {
		t.Errorf("before: %+v", st)
	}
	if err := r.k.objs.Inflight.Put(uint32(5), lictorInflightWords{At: 1}); err != nil { // of the former proxy
		t.Fatal(err)
	}
	if err := r.k.ResetVIP(5); err != nil {
		t.Fatal(err)
	}
	if st := must(r.k.VIPState(5)); !reflect.DeepEqual(st, VIPState{Slot: 5}) {
		t.Errorf("after: %+v", st)
	}
	good := r.serve(2, "127.0.0.1:0", say(0))
	r.put(vip4, good.Backend)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if st := must(r.k.VIPState(5)); len(st.Holds) != 0 || st.Counters != (Counters{Redirected: 1, Attempted: 1, Established: 1}) {
		t.Errorf("after one connect: %+v", st)
	}
	for _, slot := range []uint16{1, 2} { // one refused, one served
		words := func() (w lictorServerWords) {
			if err := r.k.objs.ServerState.Lookup(uint32(slot), &w); err != nil {
				t.Fatal(err)
			}
			return w
		}
		if n, w := must(r.k.Servers())[slot], words(); n == (Counters{}) || w == (lictorServerWords{}) && slot == 1 {
			t.Errorf("server %d before: %+v, %+v", slot, n, w)
		}
		if err := r.k.ResetServer(slot); err != nil {
			t.Fatal(err)
		}
		if n, w := must(r.k.Servers())[slot], words(); n != (Counters{}) || w != (lictorServerWords{}) {
			t.Errorf("server %d after: %+v, %+v", slot, n, w)
		}
		if l, had := must(r.k.Latency())[slot]; had {
			t.Errorf("latency of server %d after: %+v", slot, l)
		}
	}
}

// Entries are rewritten, and others put and removed, as fast as can be, so that
// memory of elements is used again for other keys: nobody reaches a server that
// was never his, and no connect fails.
func TestNoConnectIsMisroutedWhileEntriesAreRewritten(t *testing.T) {
	r := newRig(t, neverBounced)
	var servers [4]*server
	for i := range servers {
		servers[i] = r.serve(uint16(i+1), "127.0.0.1:0", echo)
	}
	may := map[netip.AddrPort][]netip.AddrPort{}
	entry := func(i int, flip bool) VIP { // VIP 1 has servers 0 and 1, VIP 2 has 2 and 3
		a, b := servers[2*i-2].Backend, servers[2*i-1].Backend
		may[vipN(i)] = []netip.AddrPort{a.Addr, b.Addr}
		if flip {
			a, b = b, a
		}
		return VIP{Key: VIPKey{Addr: vipN(i), Proto: ProtoTCP}, Slot: uint32(i), Set: 1, Owner: Owner{Kind: OwnerNetns, ID: r.cookie}, Ranked: []Backend{a, b}}
	}
	both := [2][]VIP{{entry(1, false), entry(2, false)}, {entry(1, true), entry(2, true)}}
	if err := r.k.PutVIPs(both[0]); err != nil {
		t.Fatal(err)
	}
	var others []VIP
	var otherKeys []VIPKey
	for i := 10; i < 200; i++ {
		v := both[i%2][i/2%2]
		v.Key.Addr, v.Slot, v.Owner = vipN(i), uint32(i), Owner{Kind: OwnerAny}
		v.Ranked = []Backend{{Slot: 9, Addr: netip.MustParseAddrPort("127.0.0.9:9")}} // where nobody listens
		others, otherKeys = append(others, v), append(otherKeys, v.Key)
	}
	var writers sync.WaitGroup
	var stop atomic.Bool
	var rewrites atomic.Uint64
	write := func(what func(n uint64) error) {
		writers.Go(func() {
			for !stop.Load() {
				if err := what(rewrites.Add(1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	storm := r.storm(may)
	write(func(n uint64) error { return r.k.PutVIPs(both[n%2]) })
	write(func(uint64) error {
		if err := r.k.PutVIPs(others); err != nil {
			return err
		}
		return r.k.DeleteVIPs(otherKeys)
	})
	connects := uint64(5000)
	if testing.Short() { // on an emulated processor
		connects = 200
	}
	storm.wait(t, connects)
	stop.Store(true)
	writers.Wait()
	n := storm.stop(t)
	var sum Counters
	for slot := range uint16(9) {
		sum.add(r.counters(slot))
	}
	if want := (Counters{Redirected: n, Attempted: n, Established: n, Closed: n}); sum != want {
		t.Errorf("counted %+v, want %+v", sum, want)
	}
	t.Logf("%d connects, %d rewrites, %d torn", n, rewrites.Load(), r.reasons()[ReasonTorn])
}

func TestKeysAndAddressesConvert(t *testing.T) {
	for _, addr := range []string{"239.77.0.5:8702", "[ff05::7777:0:5]:8702", "255.255.255.255:65535", "[::1]:1"} {
		key := VIPKey{Addr: netip.MustParseAddrPort(addr), Proto: ProtoTCP}
		w := keyWords(key)
		if got := keyOf(w); got != key {
			t.Errorf("%v became %v", key, got)
		}
		if b := bytesOf(&w)[16:18]; binary.BigEndian.Uint16(b) != key.Addr.Port() {
			t.Errorf("port %d is not in network order: %x", key.Addr.Port(), b)
		}
	}
}
