package page

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

var desk = browser.View{Width: 1280, Height: 900}

// away matches what a browser says when a server does not answer.
var away = regexp.MustCompile(`net::ERR_(CONNECTION|EMPTY|INCOMPLETE)|Failed to load resource`)

// One host, one browser, one day: each part goes on where the one before ended.
func TestThePageTellsWhatHappens(t *testing.T) {
	w := newWorld(t, 4*time.Minute)
	for _, part := range []struct {
		name string
		run  func(*world)
	}{
		{"it shows what there is", showsWhatThereIs},
		{"without script it stands still", standsStillWithoutScript},
		{"keyboard", worksByKeyboard},
		{"accessibility", isAccessible},
		{"a failover within a second", showsAFailover},
		{"lictord restarts", survivesARestart},
		{"the hook is removed", showsThatTheHookIsGone},
		{"a page that nobody sees", restsWhenHidden},
		{"too many pages", waitsForItsTurn},
	} {
		if !t.Run(part.name, func(t *testing.T) {
			here := *w
			here.TB = t
			part.run(&here)
		}) {
			return
		}
	}
}

func showsWhatThereIs(w *world) {
	p := w.open(desk)
	p.until(3*time.Second, `document.getElementById("link").textContent === "live"`)
	for what, want := range map[string]string{
		`document.title`: "ready: lictord on host-1",
		`document.querySelectorAll("#servers tbody tr").length`:                                     "3",
		`document.querySelectorAll("#servers .spark polyline[points]").length`:                      "3",
		`document.querySelectorAll("#proxy-table tbody tr").length`:                                 "24",
		`document.getElementById("found").textContent`:                                              "1 to 24 of 24",
		`document.getElementById("problems").hidden`:                                                "true",
		`document.querySelector("#checks > .ok dd").innerText.startsWith("✓ in effect")`:            "true",
		`document.querySelector("#proxy-table tbody tr th").textContent.startsWith("cart-1")`:       "true",
		`performance.getEntriesByType("resource").every((r) => r.name.startsWith(location.origin))`: "true",
	} {
		if got := p.text(what); got != want {
			w.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	// What the page says of servers is what the API says.
	p.until(30*time.Second, `[...document.querySelectorAll("#proxy-table tbody tr")].every((r) => r.cells[3].innerText.includes("connected"))`)
	client := w.lictor.Client()
	defer client.Close()
	servers, err := client.Servers(w.ctx)
	w.must(err)
	for i, s := range servers {
		row := fmt.Sprintf(`[...document.querySelectorAll("#servers tbody tr")[%d].cells].map((c) => c.innerText.split("\n")[0].trim()).join("|")`, i)
		want := fmt.Sprintf("%s|✓ in use|%d|%d|%d|%d|%d", s.ID, s.Proxies, s.Active, s.Established, s.Failed+s.FailedLocal, s.Bounced)
		p.until(20*time.Second, fmt.Sprintf("%s === %q", row, want))
	}
	p.calm()
}

func standsStillWithoutScript(w *world) {
	v := desk
	v.NoScript = true
	p := w.blank(v)
	w.must(p.Load(w.ctx, w.url+"?q=cart"))
	for what, want := range map[string]string{
		`document.title`: "ready: lictord on host-1",
		`document.querySelectorAll("#servers tbody tr").length`:     "3",
		`document.querySelectorAll("#proxy-table tbody tr").length`: "3",
		`document.getElementById("found").textContent`:              "1 to 3 of 3",
		`document.querySelector("noscript meta").httpEquiv`:         "refresh",
		`document.getElementById("q").value`:                        "cart",
	} {
		if got := p.text(what); got != want {
			w.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	p.calm()
}

func showsAFailover(w *world) {
	p := w.open(desk)
	victim := w.victim()
	w.must(p.Eval(w.ctx, fmt.Sprintf(`
		window.shown = 0;
		new MutationObserver(() => {
			if (!window.shown && document.getElementById("news").innerText.includes("moved from %s")) window.shown = Date.now();
		}).observe(document.getElementById("news"), { childList: true, subtree: true, characterData: true })`, victim.Name), nil))
	_, since := w.fleet.Events(0)
	killed := time.Now()
	w.must(victim.Kill())
	p.until(5*time.Second, `window.shown > 0`)
	var ms int64
	w.must(p.Eval(w.ctx, `window.shown`, &ms))
	shown := time.UnixMilli(ms)
	happened := time.Time{} // when the first of them was connected elsewhere
	events, _ := w.fleet.Events(since)
	for _, e := range events {
		if e.Kind == xds.Connected && happened.IsZero() {
			happened = e.At
		}
	}
	if happened.IsZero() {
		w.Fatal("no proxy connected anew")
	}
	w.Logf("killed; %v later the first proxy is elsewhere; %v after that the page shows it",
		happened.Sub(killed).Round(time.Millisecond), shown.Sub(happened).Round(time.Millisecond))
	if late := shown.Sub(happened); late > time.Second {
		w.Errorf("shown after %v, want 1s", late)
	}
	w.must(w.fleet.WaitUp(w.ctx, proxies))
	// The news, the servers and the proxies agree in the end.
	p.until(15*time.Second, fmt.Sprintf(`[...document.querySelectorAll("#servers tbody tr")].filter((r) => r.cells[0].innerText.startsWith(%q))
		.every((r) => r.cells[3].innerText.trim() === "0")`, victim.Name))
	p.until(15*time.Second, fmt.Sprintf(`[...document.querySelectorAll("#proxy-table tbody tr")].every((r) => r.cells[2].innerText !== %q)`, victim.Name))
	p.until(5*time.Second, `document.getElementById("say").textContent.length > 0`)
	w.Logf("news: %s", strings.ReplaceAll(p.text(`document.getElementById("news").innerText`), "\n", " "))
	p.calm()
	w.must(victim.Restart(w.ctx))
	w.must(w.cluster.WaitServers(w.ctx, 3))
}

func survivesARestart(w *world) {
	p := w.open(desk)
	w.must(p.Eval(w.ctx, `window.same = true`, nil))
	w.must(w.lictor.Term(w.ctx))
	p.until(5*time.Second, `document.getElementById("contact").innerText.startsWith("No contact with lictord since ")`)
	p.until(time.Second, `document.getElementById("link").textContent.startsWith("no contact since ")`)
	time.Sleep(2 * time.Second) // several attempts
	w.must(w.lictor.Start())
	began := time.Now()
	w.must(w.lictor.WaitReady(w.ctx))
	ready := time.Now()
	p.until(10*time.Second, `document.getElementById("link").textContent === "live" && document.getElementById("contact").hidden`)
	w.Logf("lictord is ready %v after its start; the page is live %v after that",
		ready.Sub(began).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
	if got := p.text(`window.same`); got != "true" {
		w.Error("the page was loaded again")
	}
	p.until(2*time.Second, `document.querySelectorAll("#proxy-table tbody tr").length === 24`)
	if !strings.Contains(p.text(`document.getElementById("news").innerText`), "moved from") {
		w.Error("what happened before the restart is forgotten")
	}
	p.calm()
}

func showsThatTheHookIsGone(w *world) {
	p := w.open(desk)
	pins, err := filepath.Glob(filepath.Join(w.host.BPFFS, "lictor", "link_*"))
	w.must(err)
	if len(pins) == 0 {
		w.Fatal("no pins")
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		w.must(err)
		w.must(errors.Join(l.Detach(), l.Close()))
	}
	removed := time.Now()
	p.until(10*time.Second, `document.querySelector("#checks .bad")?.innerText.includes("not in effect")`)
	w.Logf("shown %v after the hook was removed", time.Since(removed).Round(100*time.Millisecond))
	for what, want := range map[string]string{
		`document.title`: "not ready: lictord on host-1",
		`document.getElementById("verdict").innerText`:                                        "✕ not ready",
		`document.getElementById("problems").innerText.includes("The hook is not in effect")`: "true",
		`getComputedStyle(document.getElementById("problems")).display !== "none"`:            "true",
	} {
		if got := p.text(what); got != want {
			w.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	p.until(3*time.Second, `document.getElementById("say").textContent.includes("lictord is not ready")`)
	p.accessible(desk)
	w.must(w.lictor.Term(w.ctx))
	p.until(5*time.Second, `!document.getElementById("contact").hidden`)
	p.accessible(desk)
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	p.until(10*time.Second, `document.title.startsWith("ready") && document.getElementById("problems").hidden`)
	p.calm()
}

// restsWhenHidden shows that a page that nobody sees holds no connection, and
// is up to date as soon as it is seen again.
func restsWhenHidden(w *world) {
	p := w.open(desk)
	hide := func(hidden bool) {
		w.must(p.Eval(w.ctx, fmt.Sprintf(`Object.defineProperty(document, "hidden", { value: %t, configurable: true });
			document.dispatchEvent(new Event("visibilitychange"))`, hidden), nil))
	}
	hide(true)
	w.must(p.Eval(w.ctx, `window.heard = 0; new MutationObserver(() => window.heard++).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true })`, nil))
	time.Sleep(6 * time.Second) // longer than the silence that a page takes for lost contact
	if got := p.text(`document.getElementById("contact").hidden`); got != "true" {
		w.Error("a page that rests says that contact is lost")
	}
	hide(false)
	p.until(3*time.Second, `document.getElementById("link").textContent === "live" && window.heard > 0`)

	// A page of another version's files is loaded again when it next hears.
	w.must(p.Eval(w.ctx, `window.same = true; document.documentElement.dataset.build = "another"`, nil))
	hide(true)
	hide(false)
	p.until(10*time.Second, `!window.same && document.documentElement.dataset.live === "true"`)
	p.calm()
}

func waitsForItsTurn(w *world) {
	var others []net.Conn
	for deadline := time.Now().Add(10 * time.Second); len(others) < 24; {
		conn, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(w.url, "http://"), "/"))
		w.must(err)
		w.Cleanup(func() { _ = conn.Close() })
		_, err = io.WriteString(conn, "GET /page/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		w.must(err)
		status := make([]byte, len("HTTP/1.1 200"))
		_, err = io.ReadFull(conn, status)
		w.must(err)
		if strings.HasSuffix(string(status), "200") {
			others = append(others, conn)
			continue
		}
		w.must(conn.Close()) // a page of before is not gone yet
		if time.Now().After(deadline) {
			w.Fatalf("%d pages may follow, want 24", len(others))
		}
	}
	p := w.blank(desk)
	w.must(p.Load(w.ctx, w.url))
	p.until(5*time.Second, `document.getElementById("contact").textContent.startsWith("Too many pages")`)
	for _, conn := range others {
		w.must(conn.Close())
	}
	p.until(15*time.Second, `document.getElementById("link").textContent === "live" && document.getElementById("contact").hidden`)
	p.calm()
}
