package kernel

import (
	"net/netip"
	"syscall"
	"testing"
)

func TestConnectReachesTheServer(t *testing.T) {
	r := newRig(t)
	s4 := r.serve(1, "127.0.0.1:0", echo)
	s6 := r.serve(2, "[::1]:0", echo)
	r.put(vip4, s4.Backend)
	r.put(vip6, s6.Backend)
	for _, c := range []struct {
		vip  netip.AddrPort
		want Backend
	}{{vip4, s4.Backend}, {vip6, s6.Backend}} {
		conn, err := r.dial(c.vip)
		if err != nil {
			t.Fatal(err)
		}
		if got := readName(t, conn); got != c.want.Addr.String() {
			t.Errorf("connect to %v reached %s, want %v", c.vip, got, c.want.Addr)
		}
		if got := conn.RemoteAddr().String(); got != c.vip.String() {
			t.Errorf("peer of a connection to %v is %s", c.vip, got)
		}
		conn.Close()
		r.wantCounters(c.want.Slot, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1, Bounced: 1})
	}
}

func TestDenied(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	r.put(vip6)
	r.wantErr(vip6, syscall.ECONNREFUSED)
	r.wantErr(netip.MustParseAddrPort("239.77.1.1:80"), syscall.ECONNREFUSED)
	r.wantErr(netip.MustParseAddrPort("239.77.0.5:8703"), syscall.ECONNREFUSED)
}

func TestVerify(t *testing.T) {
	r := newRig(t)
	a, err := r.k.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", a)
	for _, f := range Probe() {
		t.Logf("%-30s %v %s", f.Name, f.Have, f.Err)
	}
}
