package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// worksByKeyboard goes through the page with the keyboard alone.
func worksByKeyboard(w *world) {
	p := w.open(desk)
	focus := `document.activeElement.id || document.activeElement.textContent`
	w.must(p.Press(w.ctx, "Tab"))
	if got := p.text(focus); got != "Skip to the proxies" {
		w.Errorf("the first stop is %q", got)
	}
	stops := map[string]bool{}
	for range 30 {
		w.must(p.Press(w.ctx, "Tab"))
		stop := p.text(focus)
		stops[stop] = true
		if stop == "q" {
			break
		}
		// Who cannot see the mouse sees the focus.
		if got := p.text(`getComputedStyle(document.activeElement).outlineStyle`); got == "none" {
			w.Errorf("the focus on %q cannot be seen", stop)
		}
	}
	if !stops["q"] {
		w.Fatalf("the filter cannot be reached: %v", stops)
	}
	w.must(p.Type(w.ctx, "cart connected"))
	p.until(5*time.Second, `document.getElementById("found").textContent === "1 to 3 of 3"`)
	w.must(p.Press(w.ctx, "Enter")) // must not load the page anew
	w.must(p.Press(w.ctx, "Tab"))   // the table's region
	w.must(p.Press(w.ctx, "Tab"))   // its first head
	if got := p.text(focus); got != "Proxy" {
		w.Errorf("the focus is on %q, want the first column's head", got)
	}
	w.must(p.Press(w.ctx, "Enter"))
	p.until(5*time.Second, `document.querySelector("#proxy-table [aria-sort]").ariaSort === "descending" &&
		document.querySelector("#proxy-table tbody th").textContent.startsWith("cart-3")`)
	// An update does not take the focus away.
	time.Sleep(2500 * time.Millisecond)
	if got := p.text(focus); got != "Proxy" {
		w.Errorf("after two updates the focus is on %q", got)
	}
	p.calm()
}

func isAccessible(w *world) {
	if axeScript(w) == "" {
		testenv.Lacks(w, "no npm, which fetches axe-core: run make browser")
	}
	p := w.open(desk)
	p.accessible(desk)
	phone := browser.View{Width: 360, Height: 740, Mobile: true}
	p.accessible(phone)
	if got := p.text(`document.documentElement.scrollWidth <= innerWidth`); got != "true" {
		w.Errorf("at a width of 360 the page is %s wide", p.text(`document.documentElement.scrollWidth`))
	}
	p.calm()
}

// accessible asks axe about the page as it is, in light and dark.
func (t *tab) accessible(v browser.View) {
	w := t.w
	w.Helper()
	if t.text(`typeof axe`) == "undefined" {
		axe := axeScript(w)
		if axe == "" {
			return // a part of its own is skipped, and says so
		}
		w.must(t.Eval(w.ctx, axe, nil))
	}
	for _, v.Dark = range []bool{false, true} {
		w.must(t.Show(w.ctx, v))
		var found string
		w.must(t.Eval(w.ctx, `axe.run(document).then((r) => JSON.stringify({
			passes: r.passes.length,
			violations: r.violations.map((v) => ({ id: v.id, help: v.help, nodes: v.nodes.map((n) => n.html + " " + n.failureSummary) })),
		}))`, &found))
		var report struct {
			Passes     int
			Violations []struct {
				ID, Help string
				Nodes    []string
			}
		}
		w.must(json.Unmarshal([]byte(found), &report))
		w.Logf("dark %t, width %d: %d rules hold", v.Dark, v.Width, report.Passes)
		if report.Passes < 20 {
			w.Errorf("axe has looked at %d rules only", report.Passes)
		}
		for _, violation := range report.Violations {
			w.Errorf("dark %t, width %d: %s: %s: %q", v.Dark, v.Width, violation.ID, violation.Help, violation.Nodes)
		}
	}
}

// axeVersion is that of the npm package axe-core.
const axeVersion = "4.14.1"

// axeScript is the source of axe, which npm fetches once into .cache; "" without
// npm.
func axeScript(w *world) string {
	w.Helper()
	root, err := binaries.Root()
	w.must(err)
	dir := filepath.Join(root, ".cache", "axe")
	path := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	script, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		npm, missing := exec.LookPath("npm")
		if missing != nil {
			return ""
		}
		w.must(os.MkdirAll(dir, 0o755))
		out, failed := exec.CommandContext(w.ctx, npm, "install", "--prefix", dir, "--no-save", "--no-audit", "--no-fund", "axe-core@"+axeVersion).CombinedOutput()
		if failed != nil {
			w.Fatal(fmt.Errorf("fetch axe-core: %w: %s", failed, out))
		}
		script, err = os.ReadFile(path)
	}
	w.must(err)
	return string(script)
}
