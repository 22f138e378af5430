package kernel

import (
	"os"
	"strings"
	"testing"
)

// A host without IPv6 is verified by its IPv4 pool alone.
func TestVerifyWithoutIPv6(t *testing.T) {
	r := newRig(t)
	var a Attachment
	err := r.ns.Do(func() error { // the probe is a child of this thread, and in its namespace
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
		var err error
		a, err = r.k.Verify(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := r.cfg.Pool4.Addr().String(); !strings.Contains(a.Probe, want) || strings.Contains(a.Probe, "[") {
		t.Errorf("probed %s, want %s alone", a.Probe, want)
	}
}
