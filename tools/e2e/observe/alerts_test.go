package observe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/powercut/disk"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// alerts gives how many of a name are firing, and their labels in words.
func (w *world) alerts(name string) (firing int, told []string, err error) {
	all, err := w.prom.Alerts(w.ctx)
	for _, a := range all {
		if a.Labels["alertname"] == name {
			told = append(told, a.State+": "+a.Annotations["summary"])
			if a.State == "firing" {
				firing++
			}
		}
	}
	return firing, told, err
}

// fires waits until an alert fires.
func (w *world) fires(name string, within time.Duration) {
	w.Helper()
	began := time.Now()
	w.eventually(within, func() error {
		n, told, err := w.alerts(name)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s does not fire: %v", name, told)
		}
		if err == nil {
			w.Logf("after %v %s fires: %s", time.Since(began).Round(100*time.Millisecond), name, strings.Join(told, "; "))
		}
		return err
	})
}

// ends waits until no alert of a name is firing.
func (w *world) ends(name string, within time.Duration) {
	w.Helper()
	began := time.Now()
	w.eventually(within, func() error {
		n, told, err := w.alerts(name)
		if err == nil && n > 0 {
			err = fmt.Errorf("%s fires still: %v", name, told)
		}
		return err
	})
	w.Logf("%s has ended after %v", name, time.Since(began).Round(100*time.Millisecond))
}

// quiet fails the test when anything fires.
func (w *world) quiet() {
	w.Helper()
	all, err := w.prom.Alerts(w.ctx)
	w.must(err)
	for _, a := range all {
		if a.State == "firing" {
			w.Errorf("%s fires: %s", a.Labels["alertname"], a.Annotations["summary"])
		}
	}
}

// fault is what an alert is for, and what ends it.
type fault struct {
	alert  string
	happen func()
	repair func()
	ends   time.Duration // within; default 15 s
	later  bool          // it takes long to end: others may happen meanwhile
}

// run lets faults happen, one after the other.
func (w *world) run(faults ...fault) {
	w.Helper()
	for _, f := range faults {
		if n, told, err := w.alerts(f.alert); err != nil || n > 0 {
			w.Fatalf("%s fires before anything has happened: %v %v", f.alert, told, err)
		}
		f.happen()
		w.fires(f.alert, 30*time.Second)
		f.repair()
		if !f.later {
			w.ends(f.alert, max(f.ends, 15*time.Second))
		}
	}
	for _, f := range faults {
		if f.later {
			w.ends(f.alert, 45*time.Second)
		}
	}
}

// Alerts about a host fire when their fault happens to a real lictord, and end
// after it has. A minute of the rules is a second here.
func TestAlertsOfAHostFireAndEnd(t *testing.T) {
	w := newWorld(t, 3*time.Minute).withConsul(1)
	dir := smallDisk(t)
	w.start("--state-dir=" + filepath.Join(dir, "lictor"))
	vips := w.registerAll(names("proxy", 4), "host-1")
	w.watch(w.fastRules())
	time.Sleep(2 * time.Second)
	w.quiet()
	restart := func() {
		w.must(w.lictor.Term(w.ctx))
		w.must(w.lictor.Start())
		w.must(w.lictor.WaitReady(w.ctx))
	}
	server := w.cluster.Server(0)
	var leave func()
	token := filepath.Join(t.TempDir(), "token")
	w.run(
		fault{alert: "LictorDriftRepeating", happen: func() { w.fight(vips[0]) }, repair: func() {}, later: true},
		fault{alert: "LictorEventsDropped", happen: func() { w.flood(vips[1:]) }, repair: func() {}, later: true},
		fault{
			alert: "LictorCredentialsFailing",
			happen: func() {
				_, err := w.api.Register(w.ctx, "secret", v1.RegisterRequest{
					NodeName: "host-1", Owner: v1.OwnerAny,
					Credential: &v1.Credential{Credential: state.Credential{Type: state.CredentialFile, TokenFile: token}},
				})
				w.must(err)
			},
			repair: func() { w.must(os.WriteFile(token, []byte("0123\n"), 0o600)) },
		},
		fault{alert: "LictorHookNotInEffect", happen: w.detach, repair: restart},
		fault{
			alert:  "LictorJournalNotWritable",
			happen: func() { w.must(disk.Fill(dir)); leave = w.knock() },
			repair: func() { leave(); w.must(disk.Empty(dir)) },
		},
		fault{
			alert:  "LictorConsulContactLost",
			happen: func() { w.must(server.Kill()) },
			repair: func() { w.must(server.Restart(w.ctx)) },
			ends:   30 * time.Second,
		},
		fault{
			alert:  "LictorDown",
			happen: func() { w.must(w.lictor.Kill()) },
			repair: func() { w.must(w.lictor.Start()); w.must(w.lictor.WaitReady(w.ctx)) },
		},
	)
	time.Sleep(time.Second)
	w.quiet()
}

// smallDisk is a file system that is soon full.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// knock goes on to register proxies, as pods would, until the returned function
// is called, which fails the test when none was refused.
func (w *world) knock() (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	refusals := make(chan int, 1)
	go func() {
		n := 0
		for i := 0; ctx.Err() == nil; i++ { // some may still fit in
			_, err := w.api.Register(ctx, fmt.Sprintf("more-%d", i), v1.RegisterRequest{NodeName: "host-1", Owner: v1.OwnerAny})
			var refused *v1.ProblemError
			if errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable {
				n++
			}
			time.Sleep(10 * time.Millisecond)
		}
		refusals <- n
	}()
	return func() {
		w.Helper()
		cancel()
		if n := <-refusals; n == 0 {
			w.Error("no registration was refused")
		}
	}
}

// detach takes the hook away, as somebody who means it.
func (w *world) detach() {
	w.Helper()
	pins, err := filepath.Glob(filepath.Join(w.host.BPFFS, "lictor", "link_*"))
	w.must(err)
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		w.must(err)
		w.must(errors.Join(l.Detach(), l.Close()))
	}
}

// fight deletes a VIP's entry each time it is repaired, three times.
func (w *world) fight(vip netip.AddrPort) {
	w.Helper()
	paths, err := filepath.Glob(filepath.Join(w.host.BPFFS, "lictor", "vips_v*"))
	w.must(err)
	if len(paths) != 1 {
		w.Fatalf("pinned maps of VIPs: %v, want one", paths)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	w.must(err)
	defer m.Close()
	key := vipKey(w, m, vip)
	for n := range 3 {
		w.must(m.Delete(key))
		w.eventually(20*time.Second, func() error {
			return w.is(fmt.Sprintf(`lictor_reconcile_drift_total{kind="missing"} >= bool %d`, n+1), 1)
		})
	}
}

// vipKey is a VIP's key, as the map's own type information says: its address as
// 16 bytes and its port in network order, its protocol in the host's.
func vipKey(w *world, m *ebpf.Map, vip netip.AddrPort) []byte {
	w.Helper()
	handle, err := m.Handle()
	w.must(err)
	defer handle.Close()
	spec, err := handle.Spec(nil)
	w.must(err)
	var layout *btf.Struct
	w.must(spec.TypeByName("vip_key", &layout))
	key, addr := make([]byte, m.KeySize()), vip.Addr().As16()
	for _, member := range layout.Members {
		at := key[member.Offset.Bytes():]
		switch member.Name {
		case "addr":
			copy(at, addr[:])
		case "port":
			binary.BigEndian.PutUint16(at, vip.Port())
		case "proto":
			binary.NativeEndian.PutUint16(at, unix.IPPROTO_TCP)
		}
	}
	return key
}

// flood freezes lictord while more events come than the ring buffer holds.
func (w *world) flood(vips []netip.AddrPort) {
	w.Helper()
	w.must(w.lictor.Stop())
	storm, err := w.host.StartStorm(bed.StormOptions{To: vips, Workers: 4, Abort: true})
	w.must(err)
	time.Sleep(4 * time.Second)
	r, err := storm.End()
	w.must(err)
	w.Logf("%d connects while lictord was frozen", r.Connects)
	w.must(w.lictor.Cont())
}
