//go:build pictures

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
	update  = flag.Bool("update", false, "take the README's pictures of the dashboards anew")
	minutes = flag.Float64("minutes", 6, "of what the pictures show")
)

// maxPicture is the size of a picture, so that the repository stays small.
const maxPicture = 200 << 10

// TestPanelsDraw draws the committed JSON with Grafana's own panel components in
// a real browser, from a real Prometheus that watched three hosts while servers
// were lost and drained: every panel draws its data. It takes minutes, and half a
// gigabyte from npm once, so it is behind a build tag: make pictures.
func TestPanelsDraw(t *testing.T) {
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
	for _, name := range []string{".npmrc", "package.json", "package-lock.json", "build.mjs", "render.jsx"} {
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
		commands = append([][]string{{"npm", "ci", "--no-audit", "--no-fund"}}, commands...)
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

// drawn is what a panel must have drawn.
type drawn struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
	Lines bool   `json:"lines"` // on a canvas; else words
	Moves bool   `json:"moves"` // something above 0
}

// blank lists those of some panels that do not show what they must: lines in
// color beside the grey of axes, words other than the title and legend.
const blank = `((panels) => panels.filter(({ id, title, lines, moves }) => {
	const panel = document.querySelector('[data-panel="' + id + '"]');
	const words = panel.innerText.replace(title, "").trim();
	if (/No data|error/i.test(words)) return true;
	if (!lines) return !(moves ? /[1-9]|yes/ : /\d|yes|NO/).test(words);
	return ![...panel.querySelectorAll("canvas")].some((c) => {
		const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
		for (let i = 0; i < data.length; i += 4) {
			const rgb = data.slice(i, i + 3);
			if (data[i + 3] > 200 && (!moves || Math.max(...rgb) - Math.min(...rgb) > 60)) return true;
		}
		return false;
	});
}).map(({ title }) => title))`

// picture draws a dashboard, looks for panels that draw nothing, and keeps the
// picture with -update.
func (w *world) picture(b *browser.Browser, page string, d grafana.Dashboard, from time.Time, name string, dark bool) {
	w.Helper()
	results, to := w.ask(name, d, from), time.Now()
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
	var panels []drawn
	for _, p := range d.Panels {
		panels = append(panels, drawn{ID: p.ID, Title: p.Title, Lines: p.Type == "timeseries", Moves: p.Moves})
	}
	text, err = json.Marshal(panels)
	w.must(err)
	var empty []string
	w.must(tab.Eval(w.ctx, blank+"("+string(text)+")", &empty))
	for _, panel := range empty {
		w.Errorf("%s: %q does not show its data", name, panel)
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
