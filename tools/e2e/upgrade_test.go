package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// buildVersion builds lictord under another version.
func buildVersion(w *world, version string) (path string) {
	w.Helper()
	root, err := binaries.Root()
	w.must(err)
	path = filepath.Join(w.TempDir(), "lictord-"+version)
	build := exec.CommandContext(w.ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-w -X github.com/lictor-mesh/lictor/daemon/version.version="+version,
		"-o", path, "./daemon/lictord")
	build.Dir = root
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		w.Fatalf("build lictord: %v\n%s", err, out)
	}
	return path
}

// lictord is replaced by another version and back, stopped and killed, several
// times in a row, while programs connect to a VIP as fast as they can: no
// connect fails or goes elsewhere, and none is missing in the counts.
func TestVersionsChangeUnderAConnectStorm(t *testing.T) {
	w := newWorld(t, 3, 3*time.Minute)
	m := w.join("web")
	other := bed.LictorOptions{Cluster: w.cluster, Binary: buildVersion(w, "v9.9.9-e2e")}
	usual := bed.LictorOptions{Cluster: w.cluster}

	storm, err := m.pod.StartStorm(bed.StormOptions{To: []netip.AddrPort{m.vip()}, Abort: true, Pause: time.Millisecond})
	w.must(err)
	for i := range 3 {
		for _, change := range []struct {
			end  func() error
			to   bed.LictorOptions
			want bool // the other version
		}{
			{func() error { return w.lictor.Term(w.ctx) }, other, true},
			{w.lictor.Kill, usual, false},
			{w.lictor.Kill, other, true},
			{func() error { return w.lictor.Term(w.ctx) }, usual, false},
		} {
			w.must(change.end())
			w.must(w.lictor.Start(change.to))
			w.must(w.lictor.WaitReady(w.ctx))
			client := w.lictor.Client()
			st, err := client.Status(w.ctx)
			client.Close()
			w.must(err)
			if is := st.Version == "v9.9.9-e2e"; is != change.want {
				t.Errorf("round %d: version %s runs", i, st.Version)
			}
		}
	}
	r, err := storm.End()
	w.must(err)
	t.Logf("%d connects, the longest took %v", r.Connects, r.Longest)
	if r.OK != r.Connects || r.Connects < 1000 {
		t.Errorf("of %d connects %d succeeded; errors: %v", r.Connects, r.OK, r.Errnos)
	}
	if len(r.Peers) != 1 || r.Peers[m.vip().String()] != r.OK {
		t.Errorf("peers are %v, want %v alone", r.Peers, m.vip())
	}
	w.eventually(5*time.Second, func() error {
		client := w.lictor.Client()
		defer client.Close()
		servers, err := client.Servers(w.ctx)
		w.must(err)
		var redirected, established, active uint64
		for _, s := range servers {
			redirected, established, active = redirected+s.Redirected, established+s.Established, active+s.Active
		}
		return expect("redirected, established and active",
			fmt.Sprint(redirected, established, active), fmt.Sprint(r.Connects, r.OK, 0))
	})
}
