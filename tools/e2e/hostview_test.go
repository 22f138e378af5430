package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// atOnce is how long an answer of the host's own kernel may take on a busy
// machine: it sends no packet and waits for nobody.
const atOnce = 100 * time.Millisecond

// connects connects once from a program on the node and complains about another
// outcome than the wanted one: 0, or an errno that must come at once.
func (w *world) connects(from *bed.Node, to netip.AddrPort, want unix.Errno) error {
	w.Helper()
	got, err := from.Connect(w.ctx, bed.Connect{To: to})
	switch {
	case err != nil:
		return err
	case got.Errno != want:
		return fmt.Errorf("a connect from %s to %v gives %v, not %v", from.Name, to, errno(got.Errno), errno(want))
	case want != 0 && got.Took > atOnce:
		return fmt.Errorf("a connect from %s to %v takes %v to be refused, want at most %v", from.Name, to, got.Took, atOnce)
	}
	return nil
}

func errno(e unix.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

// metric is the value of a series of the daemon's /metrics, named with its
// labels; 0 when there is none.
func (w *world) metric(series string) float64 {
	w.Helper()
	page, err := w.lictor.Get(w.ctx, "/metrics")
	w.must(err)
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			w.must(err)
			return v
		}
	}
	return 0
}

// logged counts the lines of the running daemon's log that hold a text.
func (w *world) logged(text string) int {
	w.Helper()
	log, err := os.ReadFile(w.lictor.Process().Log)
	w.must(err)
	return bytes.Count(log, []byte(text))
}

// proxies are those that the API lists, by id.
func (w *world) proxies() map[string]v1.Proxy {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	list, err := client.Proxies(w.ctx)
	w.must(err)
	byID := map[string]v1.Proxy{}
	for _, p := range list {
		byID[p.ProxyID] = p
	}
	return byID
}

// pins are the names of what the daemon has pinned.
func (w *world) pins(pattern string) []string {
	w.Helper()
	paths, err := filepath.Glob(filepath.Join(w.host.BPFFS, "lictor", pattern))
	w.must(err)
	return paths
}
