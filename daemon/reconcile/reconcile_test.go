package reconcile

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

var (
	deriver = Deriver{Port: 8702, BootID: "boot-1"}
	vip4    = netip.MustParseAddr("239.77.0.5")
	vip6    = netip.MustParseAddr("ff05::7777:0:5")
)

// twoServers lists s1, which has both families, and s2, which has IPv4 only.
func twoServers() state.State {
	s := state.New()
	s = state.Fold(s, state.Event{Body: state.ServerSeen{Server: state.ServerSpec{
		ID: "s1", Slot: 1, Addr4: netip.MustParseAddr("10.0.0.1"), Addr6: netip.MustParseAddr("fd00::1"), Port: 8502,
	}}})
	return state.Fold(s, state.Event{Body: state.ServerSeen{Server: state.ServerSpec{
		ID: "s2", Slot: 2, Addr4: netip.MustParseAddr("10.0.0.2"), Port: 8503,
	}}})
}

func proxy(ranked ...string) *state.Proxy {
	return &state.Proxy{
		Registration: state.Registration{
			ID: "a", Index: 5, VIP: vip4, VIP6: vip6,
			Owner: state.Owner{Kind: state.OwnerNetns, ID: 7, BootID: "boot-1"},
		},
		Ranked: ranked,
	}
}

func TestDesired(t *testing.T) {
	s := twoServers()
	vips := deriver.Desired(s, proxy("s2", "s1", "gone"), 9)
	if len(vips) != 2 {
		t.Fatalf("%d entries", len(vips))
	}
	v4, v6 := vips[0], vips[1]
	want := kernel.VIP{
		Key:  kernel.VIPKey{Addr: netip.AddrPortFrom(vip4, 8702), Proto: kernel.ProtoTCP},
		Slot: 5, Set: 9, Owner: kernel.Owner{Kind: kernel.OwnerNetns, ID: 7},
		Ranked: []kernel.Backend{
			{Slot: 2, Addr: netip.MustParseAddrPort("10.0.0.2:8503")},
			{Slot: 1, Addr: netip.MustParseAddrPort("10.0.0.1:8502")},
		},
	}
	if v4.Key != want.Key || !Same(v4, want) {
		t.Errorf("IPv4 entry %+v, want %+v", v4, want)
	}
	if len(v6.Ranked) != 1 || v6.Ranked[0].Addr != netip.MustParseAddrPort("[fd00::1]:8502") || v6.Slot != 5 {
		t.Errorf("IPv6 entry %+v: only s1 has such an address", v6)
	}
	p := proxy("s1")
	p.VIP6 = netip.Addr{}
	if vips := deriver.Desired(s, p, 9); len(vips) != 1 {
		t.Errorf("%d entries without an IPv6 pool", len(vips))
	}
	if v := deriver.Desired(s, proxy("s2"), 9)[0]; !slices.Equal(v.Ranked, want.Ranked) {
		t.Errorf("s1 has come, and the proxy is not placed anew: %+v", v.Ranked)
	}
	if v := deriver.Desired(s, proxy("gone"), 9)[0]; len(v.Ranked) != 2 {
		t.Errorf("what the proxy is placed on has gone: %+v", v.Ranked)
	}
	s = state.Fold(s, state.Event{Body: state.ServerDrained{ID: "s2"}})
	if v := deriver.Desired(s, proxy("s2", "s1"), 9)[0]; len(v.Ranked) != 1 || v.Ranked[0].Slot != 1 {
		t.Errorf("s2 is drained: %+v", v.Ranked)
	}
}

// What All gives is what Desired does, one after the other; and what Diff keeps of
// it is not overwritten.
func TestAllIsWhatIsDesiredOfEach(t *testing.T) {
	s := twoServers()
	want := map[kernel.VIPKey]kernel.VIP{}
	for i, ranked := range [][]string{{"s1", "s2"}, {"s2", "s1"}, {"s2"}, nil} {
		p := proxy(ranked...)
		p.ID, p.Index = string(rune('a'+i)), uint32(i+1)
		p.VIP, p.VIP6 = netip.AddrFrom4([4]byte{239, 77, 0, byte(i + 1)}), netip.Addr{}
		if i == 1 {
			p.VIP6 = vip6
		}
		s.Proxies[p.ID] = p
		for _, v := range deriver.Desired(s, p, 9) {
			want[v.Key] = v
		}
	}
	c := Diff(deriver.All(s, 9), nil)
	if len(c.Put) != 5 || c.Drift[DriftMissing] != 5 {
		t.Fatalf("%d entries, %v", len(c.Put), c.Drift)
	}
	for _, v := range c.Put {
		if !Same(v, want[v.Key]) {
			t.Errorf("%v is %+v, want %+v", v.Key, v, want[v.Key])
		}
	}
	for range deriver.All(s, 9) {
		break // asks for no more
	}
}

func TestDesiredIsNoLongerThanTheKernelsList(t *testing.T) {
	s := state.New()
	var ranked []string
	for i := range 12 {
		id := string(rune('a' + i))
		ranked = append(ranked, id)
		s = state.Fold(s, state.Event{Body: state.ServerSeen{Server: state.ServerSpec{
			ID: id, Slot: uint16(i + 1), Addr4: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 1,
		}}})
	}
	for _, placed := range [][]string{ranked, ranked[:3], nil} {
		v := deriver.Desired(s, proxy(placed...), 9)[0]
		if len(v.Ranked) != kernel.MaxRanked || len(placed) > 0 && v.Ranked[0].Slot != 1 {
			t.Errorf("placed on %v: %+v", placed, v.Ranked)
		}
		if len(placed) == 0 && v.Ranked[0].Slot != 6 { // proxy 5 of those to whom it is all the same
			t.Errorf("placed nowhere: %+v", v.Ranked)
		}
	}
}

func TestOwner(t *testing.T) {
	for _, tc := range []struct {
		name     string
		owner    state.Owner
		want     kernel.Owner
		resolved bool
	}{
		{"netns", state.Owner{Kind: state.OwnerNetns, ID: 7, BootID: "boot-1"}, kernel.Owner{Kind: kernel.OwnerNetns, ID: 7}, true},
		{"cgroup", state.Owner{Kind: state.OwnerCgroup, ID: 7, Level: 2, BootID: "boot-1"}, kernel.Owner{Kind: kernel.OwnerCgroup, ID: 7, Level: 2}, true},
		{"any", state.Owner{Kind: state.OwnerAny}, kernel.Owner{Kind: kernel.OwnerAny}, true},
		{"of another boot", state.Owner{Kind: state.OwnerNetns, ID: 7, BootID: "boot-0"}, kernel.Owner{Kind: kernel.OwnerUnresolved}, false},
		{"not resolved", state.Owner{Kind: state.OwnerCgroup, Path: "/a", BootID: "boot-1"}, kernel.Owner{Kind: kernel.OwnerUnresolved}, false},
		{"none", state.Owner{}, kernel.Owner{Kind: kernel.OwnerUnresolved}, false},
	} {
		p := proxy("s1")
		p.Owner = tc.owner
		if got := deriver.Desired(twoServers(), p, 9)[0].Owner; got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
		if got := Resolved(tc.owner, "boot-1"); got != tc.resolved {
			t.Errorf("%s: resolved is %t", tc.name, got)
		}
	}
}

// The kernel's waits end when the set changes, so it must with all that a
// connect depends on, and with nothing else.
func TestSet(t *testing.T) {
	base := Set(twoServers())
	if Set(twoServers()) != base {
		t.Error("the same servers give another set")
	}
	s2 := twoServers().Servers["s2"].ServerSpec
	version, port, addr := s2, s2, s2
	version.Version, port.Port, addr.Addr4 = "2", 1, netip.MustParseAddr("10.0.0.3")
	for _, tc := range []struct {
		name    string
		body    state.Body
		changes bool
	}{
		{"gone", state.ServerGone{ID: "s2"}, true},
		{"seen", state.ServerSeen{Server: state.ServerSpec{ID: "s3", Slot: 3, Port: 1}}, true},
		{"drained", state.ServerDrained{ID: "s2"}, true},
		{"another port", state.ServerChanged{Server: port}, true},
		{"another address", state.ServerChanged{Server: addr}, true},
		{"another version", state.ServerChanged{Server: version}, false},
		{"a stranger drained", state.ServerDrained{ID: "s9"}, false},
	} {
		got := Set(state.Fold(twoServers(), state.Event{Body: tc.body}))
		if (got != base) != tc.changes {
			t.Errorf("%s: set %d, was %d", tc.name, got, base)
		}
	}
}

func TestSameSeesEveryField(t *testing.T) {
	base := deriver.Desired(twoServers(), proxy("s1", "s2"), 9)[0]
	for name, change := range map[string]func(*kernel.VIP){
		"slot":    func(v *kernel.VIP) { v.Slot++ },
		"owner":   func(v *kernel.VIP) { v.Owner.ID++ },
		"level":   func(v *kernel.VIP) { v.Owner.Level++ },
		"set":     func(v *kernel.VIP) { v.Set++ },
		"order":   func(v *kernel.VIP) { v.Ranked[0], v.Ranked[1] = v.Ranked[1], v.Ranked[0] },
		"shorter": func(v *kernel.VIP) { v.Ranked = v.Ranked[:1] },
		"port":    func(v *kernel.VIP) { v.Ranked[1].Addr = netip.AddrPortFrom(v.Ranked[1].Addr.Addr(), 1) },
	} {
		other := deriver.Desired(twoServers(), proxy("s1", "s2"), 9)[0]
		if !Same(base, other) {
			t.Fatal("equal entries differ")
		}
		change(&other)
		if Same(base, other) {
			t.Errorf("%s: not seen", name)
		}
	}
}

// Whatever is in the map, the changes make it what is desired, and reconciling
// again writes nothing. Every difference is counted once.
func TestDiffMakesTheMapAsDesired(t *testing.T) {
	entry := rapid.Custom(func(t *rapid.T) kernel.VIP {
		return kernel.VIP{
			Key: kernel.VIPKey{
				Addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 77, 0, rapid.Byte().Draw(t, "vip") % 8}), 8702),
				Proto: kernel.ProtoTCP,
			},
			Slot: rapid.Uint32Range(1, 3).Draw(t, "slot"),
			Set:  rapid.Uint32Range(1, 2).Draw(t, "set"),
		}
	})
	entries := rapid.SliceOfDistinct(entry, func(v kernel.VIP) kernel.VIPKey { return v.Key })
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := entries.Draw(t, "desired"), entries.Draw(t, "actual")
		c := Diff(slices.Values(desired), actual)
		if n := c.Drift[DriftMissing] + c.Drift[DriftChanged]; n != len(c.Put) {
			t.Errorf("%d counted, %d put", n, len(c.Put))
		}
		if n := c.Drift[DriftUnknown]; n != len(c.Delete) {
			t.Errorf("%d counted, %d deleted", n, len(c.Delete))
		}
		m := map[kernel.VIPKey]kernel.VIP{}
		for _, v := range actual {
			m[v.Key] = v
		}
		for _, v := range c.Put {
			m[v.Key] = v
		}
		for _, k := range c.Delete {
			delete(m, k)
		}
		var then []kernel.VIP
		for _, v := range m {
			then = append(then, v)
		}
		if again := Diff(slices.Values(desired), then); !again.Empty() || len(again.Drift) != 0 || len(then) != len(desired) {
			t.Errorf("again: %+v", again)
		}
	})
}
