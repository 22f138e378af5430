package kernel

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
)

// former is a version of which every map that can change has values of another
// size, pinned under a lower number than this version's.
func former() version {
	v := version{layouts: maps.Clone(thisVersion.layouts)}
	v.load = func() (*ebpf.CollectionSpec, error) {
		spec, err := loadLictor()
		for name, m := range spec.Maps {
			if v.layouts[name] < thisVersion.layouts[name] && m.Type != ebpf.RingBuf {
				m.Key, m.Value = nil, nil // the types would not be of that size
				m.ValueSize += 40
			}
		}
		return spec, err
	}
	for name := range v.layouts {
		if name != lictorMapSocks && name != lictorMapInflight {
			v.layouts[name]--
		}
	}
	return v
}

// reader is this version with a decoder of that former one's entries.
func reader() version {
	v := thisVersion
	v.decoders = map[int]func(key, value []byte) (VIP, error){
		thisVersion.layouts[lictorMapVips] - 1: func(key, value []byte) (VIP, error) {
			var k lictorVipKey
			var w lictorVip
			copy(bytesOf(&k), key)
			copy(bytesOf(&w), value)
			return vipOf(k, &w), nil
		},
	}
	return v
}

// putFormer writes an entry of the size that former has.
func (r *rig) putFormer(v VIP) {
	r.t.Helper()
	w := vipWords(v, 1)
	value := make([]byte, r.k.objs.Vips.ValueSize())
	copy(value, bytesOf(&w))
	if err := r.k.objs.Vips.Put(w.Key, value); err != nil {
		r.t.Fatal(err)
	}
}

// become starts another version in place of the one that runs.
func (r *rig) become(v version) {
	r.t.Helper()
	if err := r.k.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start(v)
}

// forget removes what this version pinned, as if it had never run.
func (r *rig) forget() {
	r.t.Helper()
	if err := errors.Join(r.k.Close(), Unload(r.cfg.BPFFS)); err != nil {
		r.t.Fatal(err)
	}
}

func TestLayoutIsMigratedUnderAConnectStorm(t *testing.T) {
	r := newRigDetached(t, neverBounced)
	r.forget()
	r.start(former())
	r.attach()
	s, dead := r.serve(1, "127.0.0.1:0", echo), r.closedPort(2)
	other := VIP{Key: VIPKey{Addr: vipN(6), Proto: ProtoTCP}, Slot: 6, Set: 1, Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{dead}}
	r.putFormer(VIP{Key: VIPKey{Addr: vip4, Proto: ProtoTCP}, Slot: 5, Set: 1, Owner: Owner{Kind: OwnerNetns, ID: r.cookie}, Ranked: []Backend{s.Backend}})
	r.putFormer(other)
	promise := Meta{Journal: [16]byte{1}, LastPromise: 7}
	meta := make([]byte, r.k.objs.Meta.ValueSize())
	copy(meta, bytesOf(&lictorMetaWords{Journal: promise.Journal, LastPromise: promise.LastPromise}))
	if err := r.k.objs.Meta.Put(uint32(0), meta); err != nil {
		t.Fatal(err)
	}
	r.wantErr(other.Key.Addr, syscall.ECONNREFUSED)
	r.wantErr(vipN(7), syscall.ECONNREFUSED)
	conn, err := r.dial(vip4) // lives through it all
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kept := func(when string) {
		t.Helper()
		st := must(r.k.VIPStates([]uint32{6}))[0]
		if len(st.Holds) != 1 || st.Holds[0].Slot != 2 || st.Holds[0].Reason != HoldFailed || st.Counters.Failed != 1 {
			t.Errorf("%s: state of the other VIP %+v, want server 2 held down for one failure", when, st)
		}
		if m := must(r.k.Meta()); m != promise {
			t.Errorf("%s: %+v, want %+v", when, m, promise)
		}
		if vips := must(r.k.VIPs()); len(vips) != 2 {
			t.Errorf("%s: VIPs %+v, want two", when, vips)
		}
	}
	storm := r.storm(map[netip.AddrPort][]netip.AddrPort{vip4: {s.Addr}})
	storm.wait(t, 100)
	// The former version's maps are read through the other layout from here on.
	r.become(reader())
	storm.wait(t, 100) // the former programs are still in effect
	kept("before it is attached")
	r.attach()
	storm.wait(t, 100)
	kept("attached")
	r.become(thisVersion) // a restart after the migration, of a version that knows no former entries
	r.attach()
	storm.wait(t, 100)
	n := storm.stop(t)
	kept("in the end")
	if r.refused()[2] == 0 {
		t.Error("server 2's refusal is forgotten")
	}
	if denied := r.reasons()[ReasonNoEntry]; denied != 1 {
		t.Errorf("counted %d connects without an entry, want 1", denied)
	}
	var took uint64
	for _, in := range must(r.k.Latency())[1].Buckets {
		took += in
	}
	if took != n+1 {
		t.Errorf("%d connects took some time, want %d", took, n+1)
	}

	open := Counters{Redirected: n + 1, Attempted: n + 1, Established: n + 1, Closed: n}
	r.wantCounters(1, open)
	r.wantCounters(2, Counters{Redirected: 1, Attempted: 1, Failed: 1})
	if drift := must(r.k.Recount()); len(drift) != 0 {
		t.Errorf("drift %v", drift)
	}
	st := must(r.k.VIPState(5)).Counters
	if st.BytesIn, st.BytesOut = 0, 0; st != open {
		t.Errorf("VIP counted %+v, want %+v", st, open)
	}
	conn.Close()
	r.wantCounters(1, Counters{Redirected: n + 1, Attempted: n + 1, Established: n + 1, Closed: n + 1})
	if err := r.k.ResetServer(1); err != nil { // what former layouts counted, too
		t.Fatal(err)
	}
	r.wantCounters(1, Counters{})
	if l, had := must(r.k.Latency())[1]; had {
		t.Errorf("latency of a server's slot as new: %+v", l)
	}
	have := must(r.k.pins.scan())
	for _, name := range []string{lictorMapVips, lictorMapServerState, lictorMapEvents, lictorMapMeta} {
		if got := have.maps[name]; len(got) != 1 || got[0] != thisVersion.layouts[name] {
			t.Errorf("map %s is still pinned with layouts %v", name, got)
		}
	}
}

// Of two former layouts the newer one has the last word. Both go on to be counted,
// and neither comes back once it was copied.
func TestStatesOfTwoFormerLayouts(t *testing.T) {
	r := newRigDetached(t)
	r.forget()
	if err := os.Mkdir(r.cfg.BPFFS, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := must(loadLictor()).Maps[lictorMapVipState]
	for layout, slots := range [][]uint32{{5, 6}, {5}} {
		m := must(ebpf.NewMap(spec))
		for _, slot := range slots {
			w := lictorVipWords{Count: lictorCounters{Failed: 1}}
			w.Holds[0] = lictorHold{At: 1, Slot: uint16(layout + 1), Reason: uint8(HoldFailed)}
			if err := m.Put(slot, w); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(m.Pin((&pinDir{path: r.cfg.BPFFS}).mapPath(lictorMapVipState, layout)), m.Close()); err != nil {
			t.Fatal(err)
		}
	}
	v := thisVersion
	v.layouts = maps.Clone(v.layouts)
	v.layouts[lictorMapVipState] = 2
	want := func(when string, slot uint32, server uint16, failed uint64) {
		t.Helper()
		st := must(r.k.VIPState(slot))
		if len(st.Holds) != 1 || st.Holds[0].Slot != server || st.Counters.Failed != failed {
			t.Errorf("%s: slot %d: %+v, want server %d held down and %d failures", when, slot, st, server, failed)
		}
	}
	r.start(v)
	want("before it is attached", 5, 2, 2)
	r.attach()
	want("attached", 5, 2, 2)
	want("attached", 6, 1, 1)
	// The programs in effect write to the present map by now.
	if err := r.k.objs.VipState.Put(uint32(6), lictorVipWords{}); err != nil {
		t.Fatal(err)
	}
	r.attach()
	if w := r.words(6); w != (lictorVipWords{}) {
		t.Errorf("written over: %+v", w)
	}
	want("attached again", 5, 2, 2)
	if err := r.k.ResetVIP(5); err != nil {
		t.Fatal(err)
	}
	if st := must(r.k.VIPState(5)); !reflect.DeepEqual(st, VIPState{Slot: 5}) {
		t.Errorf("as new: %+v", st)
	}
}

// Entries of a layout with fewer members are decoded by the version that knows it.
func TestFormerEntriesAreDecoded(t *testing.T) {
	r := newRigDetached(t, neverBounced)
	r.forget()
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
	r.start(v)
	if vips := must(r.k.VIPs()); len(vips) != 1 || vips[0].Key.Addr != vip4 || vips[0].Slot != 5 || vips[0].Ranked[0].Addr != s.Addr {
		t.Errorf("copied %+v, want %v to %v", vips, vip4, s.Addr)
	}
	// What this version wrote is not written over by the next start before Attach.
	now := r.serve(2, "127.0.0.1:0", echo)
	r.put(vip4, now.Backend)
	r.become(v)
	r.attach()
	if got := r.reach(vip4); got != now.Addr.String() {
		t.Errorf("reached %s, want %v", got, now.Addr)
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
