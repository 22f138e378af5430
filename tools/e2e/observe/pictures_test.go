package observe

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/grafana"
	"github.com/lictor-mesh/lictor/tools/prometheus"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

var (
	draw    = flag.Bool("draw", false, "draw the dashboards with Grafana's panel components, which npm gets: 475 MB, once")
	update  = flag.Bool("update", false, "with -draw: take the README's pictures of the dashboards anew")
	minutes = flag.Float64("minutes", 6, "with -draw: of what the pictures show")
)

// maxPicture is the size of a picture, so that the repository stays small.
const maxPicture = 200 << 10

// TestPanelsDraw draws the committed JSON with Grafana's own panel components in
// a real browser, from a real Prometheus that watched three hosts while servers
// were lost and drained. Every panel draws something.
func TestPanelsDraw(t *testing.T) {
	if !*draw {
		t.Skip("takes minutes and half a gigabyte: go test ./tools/e2e/observe -run TestPanelsDraw -draw")
	}
	dir := renderer(t)
	all := time.Duration(*minutes * float64(time.Minute))
	w := newWorld(t, all+4*time.Minute).withConsul(3)
	files := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(files.Close)
	b := browser.ForTest(t)
	began := w.happen(all)

	w.picture(b, files.URL, grafana.Fleet(), began, "grafana-fleet.png", false)
	w.picture(b, files.URL, grafana.Host(), began, "grafana-host.png", true)
}

// renderer bundles tools/grafana/render in .cache/grafana, and returns the
// directory with its page.
func renderer(t *testing.T) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, ".cache", "grafana")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"package.json", "build.mjs", "render.jsx"} {
		text, err := os.ReadFile(filepath.Join(root, "tools", "grafana", "render", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	commands := [][]string{{"node", "build.mjs"}}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); errors.Is(err, os.ErrNotExist) {
		commands = append([][]string{{"npm", "install", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"}}, commands...)
	}
	for _, c := range commands {
		cmd := exec.CommandContext(t.Context(), c[0], c[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
	return filepath.Join(dir, "dist")
}

// happen lets three hosts have streams, and servers be lost, refuse and be
// drained, in that time.
func (w *world) happen(all time.Duration) (began time.Time) {
	w.Helper()
	const streams = 24
	const anywhere = "--http-addr=0.0.0.0:9760"
	w.start(anywhere)
	hosts := []*world{w}
	var others []prometheus.Target
	for i := range 2 {
		host, err := w.bed.NewHost(fmt.Sprintf("host-%d", i+2))
		w.must(err)
		other := *w
		other.host = host
		other.start(anywhere)
		others = append(others, prometheus.Target{
			Address: netip.AddrPortFrom(host.Addr(), 9760).String(), Instance: host.Name,
		})
		hosts = append(hosts, &other)
	}
	w.watch(nil, others...)
	began = time.Now()
	part := all / 12
	rollouts := make([]func(), len(hosts))
	for i, h := range hosts {
		rollouts[i] = h.streams(streams)
	}
	time.Sleep(2 * part)
	victim := w.victim()
	w.must(victim.Kill())
	time.Sleep(2 * part)
	w.must(victim.Restart(w.ctx))
	w.must(w.cluster.WaitServers(w.ctx, 3))
	time.Sleep(part)
	for _, rollout := range rollouts {
		rollout()
	}
	stop := hosts[1].babble(hosts[1].registerAll(names("babbler", 3), "host-2"))
	time.Sleep(2 * part)
	stop()
	drained := w.victim()
	for _, h := range hosts {
		h.must(h.api.Drain(w.ctx, drained.Name))
	}
	time.Sleep(2 * part)
	for _, h := range hosts {
		h.must(h.api.Undrain(w.ctx, drained.Name))
	}
	time.Sleep(max(0, all-time.Since(began)))
	return began
}

// results are those of a dashboard's panels, by panel and query.
func (w *world) results(d grafana.Dashboard, began time.Time) map[int]map[string][]prometheus.Series {
	w.Helper()
	now := time.Now()
	step := max(now.Sub(began)/240, interval)
	chosen := map[string]string{
		"job": ".+", "instance": "host-1", "__range": fmt.Sprintf("%ds", int(now.Sub(began).Seconds())),
		"__rate_interval": fmt.Sprintf("%dms", max(4*step, 4*interval).Milliseconds()),
	}
	all := map[int]map[string][]prometheus.Series{}
	for _, p := range d.Panels {
		all[p.ID] = map[string][]prometheus.Series{}
		for _, target := range p.Targets {
			expr := grafana.Resolve(target.Expr, chosen)
			var err error
			if target.Instant {
				all[p.ID][target.RefID], err = w.prom.Query(w.ctx, expr)
			} else {
				all[p.ID][target.RefID], err = w.prom.Range(w.ctx, expr, began, now, step)
			}
			w.must(err)
		}
	}
	return all
}

// blank lists the panels that show nothing: no line on a canvas, no word.
const blank = `[...document.querySelectorAll("[data-panel]")].filter((panel) => {
	const drawn = [...panel.querySelectorAll("canvas")].some((c) =>
		c.width > 0 && c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0));
	const title = panel.querySelector("h2, h6, [title]")?.innerText ?? "";
	const words = panel.innerText.replace(title, "").trim();
	return !(drawn || /\d|yes|NO/.test(words)) || /No data|error/i.test(words);
}).map((panel) => panel.innerText)`

// picture draws a dashboard, looks for panels that draw nothing, and keeps the
// picture with -update.
func (w *world) picture(b *browser.Browser, page string, d grafana.Dashboard, from time.Time, name string, dark bool) {
	w.Helper()
	results, to := w.results(d, from), time.Now()
	last := d.Panels[len(d.Panels)-1].GridPos
	const width = 1300
	tab, err := b.Open(w.ctx, browser.View{Width: width, Height: (last.Y+last.H)*34 + 70, Dark: dark})
	w.must(err)
	defer func() { w.must(tab.Close(w.ctx)) }()
	w.must(tab.Load(w.ctx, page))
	w.must(tab.Wait(w.ctx, "window.drawn === true"))
	text, err := json.Marshal([]any{d, results, from.UnixMilli(), to.UnixMilli(), dark, width})
	w.must(err)
	w.must(tab.Eval(w.ctx, "draw(..."+string(text)+")", nil))
	soon, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	if err := tab.Wait(soon, fmt.Sprintf(`document.querySelectorAll("[data-panel]").length === %d`, len(d.Panels))); err != nil {
		w.Fatalf("%s is not drawn: %v; the browser complains: %v", name, err, tab.Complaints())
	}
	time.Sleep(time.Second) // fonts, and what measures itself before it draws
	var empty []string
	w.must(tab.Eval(w.ctx, blank, &empty))
	for _, panel := range empty {
		w.Errorf("%s: a panel draws nothing: %q", name, panel)
	}
	for _, complaint := range tab.Complaints() {
		w.Errorf("%s: the browser complains: %s", name, complaint)
	}
	png, err := tab.Picture(w.ctx, true)
	w.must(err)
	dir := w.TempDir()
	if *update {
		root, err := binaries.Root()
		w.must(err)
		dir = filepath.Join(root, "tools", "docs", "pictures")
		if len(png) > maxPicture {
			w.Errorf("%s has %d bytes, more than %d", name, len(png), maxPicture)
		}
	}
	w.must(os.WriteFile(filepath.Join(dir, name), png, 0o644))
	w.Logf("%s: %d bytes", name, len(png))
}
