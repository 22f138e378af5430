package page

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// With a thousand proxies more the page is there at once, and nothing that it
// does keeps the reader waiting.
func TestAThousandProxies(t *testing.T) {
	const more = 1000
	w := newWorld(t, 3*time.Minute)
	client := w.lictor.Client()
	defer client.Close()
	var group errgroup.Group
	group.SetLimit(32)
	for i := range more {
		group.Go(func() error {
			_, err := client.Register(w.ctx, fmt.Sprintf("batch-%d-sidecar-proxy", i), v1.RegisterRequest{Owner: v1.OwnerAny})
			return err
		})
	}
	w.must(group.Wait())

	p := w.blank(desk)
	w.must(p.Call(w.ctx, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.long = [];
		new PerformanceObserver((l) => l.getEntries().forEach((e) => long.push(Math.round(e.duration)))).observe({ type: "longtask", buffered: true });
		addEventListener("DOMContentLoaded", () => new MutationObserver(() => { window.liveAt ??= performance.now(); })
			.observe(document.documentElement, { attributeFilter: ["data-live"] }));
		// How long it takes from doing something until it is on the screen.
		window.takes = (f) => new Promise((done) => {
			const began = performance.now();
			f();
			requestAnimationFrame(() => setTimeout(() => done(Math.round(performance.now() - began))));
		});`}, nil))
	w.must(p.Load(w.ctx, w.url))
	p.until(10*time.Second, `window.liveAt > 0`)
	p.until(10*time.Second, fmt.Sprintf(`document.getElementById("found").textContent === "1 to 100 of %d,%03d"`, (more+proxies)/1000, (more+proxies)%1000))
	var m struct{ Paint, Live, Type, Sort, Turn int }
	w.must(p.Eval(w.ctx, `(async () => {
		const q = document.getElementById("q"), type = (s) => () => { q.value = s; q.dispatchEvent(new Event("input")); };
		const m = {
			Paint: Math.round(performance.getEntriesByName("first-contentful-paint")[0].startTime),
			Live: Math.round(window.liveAt),
			Type: await takes(type("batch-99")),
		};
		if (document.getElementById("found").textContent !== "1 to 11 of 11") throw new Error(document.getElementById("found").textContent);
		await takes(type(""));
		m.Sort = await takes(() => document.querySelector("#proxy-table [data-sort=server] button").click());
		m.Turn = await takes(() => document.querySelector("#pager button:last-child").click());
		if (!document.getElementById("found").textContent.startsWith("101 to 200 of")) throw new Error(document.getElementById("found").textContent);
		return m;
	})()`, &m))
	t.Logf("ms: first paint %d, live %d, a filter typed %d, sorted %d, turned over %d", m.Paint, m.Live, m.Type, m.Sort, m.Turn)

	// A third of them move at once.
	w.must(client.Drain(w.ctx, "consul-1"))
	p.until(10*time.Second, `document.getElementById("news").innerText.includes("consul-1 is drained")`)
	p.until(10*time.Second, `/\d{3} proxies moved from consul-1/.test(document.getElementById("news").innerText)`)
	w.must(client.Undrain(w.ctx, "consul-1"))
	p.until(10*time.Second, `document.getElementById("news").innerText.includes("consul-1 is no longer drained")`)
	time.Sleep(2 * time.Second)
	var long []int
	w.must(p.Eval(w.ctx, `window.long`, &long))
	t.Logf("tasks of more than 50 ms: %v", long)
	// The machine may be busy with other tests: the bounds are several times
	// what it takes on two idle cores.
	for what, took := range map[string]int{"first paint": m.Paint, "live": m.Live} {
		if took > 2000 {
			t.Errorf("%s after %d ms, want 2000", what, took)
		}
	}
	for what, took := range map[string]int{"a filter": m.Type, "sorting": m.Sort, "turning over": m.Turn} {
		if took > 300 {
			t.Errorf("%s takes %d ms, want 300", what, took)
		}
	}
	for _, took := range long {
		if took > 300 {
			t.Errorf("a task took %d ms, want 300", took)
		}
	}
	p.calm()
}
