package page

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// With a thousand proxies more the page is there at once, and nothing that it
// does keeps the reader waiting. What it computes is bounded in time of the CPU,
// which other tests on the machine do not stretch.
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
	w.must(p.Call(w.ctx, "Performance.enable", map[string]any{"timeDomain": "threadTicks"}, nil))
	w.must(p.Call(w.ctx, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.long = [];
		new PerformanceObserver((l) => l.getEntries().forEach((e) => long.push(Math.round(e.duration)))).observe({ type: "longtask", buffered: true });
		addEventListener("DOMContentLoaded", () => new MutationObserver(() => { window.liveAt ??= performance.now(); })
			.observe(document.documentElement, { attributeFilter: ["data-live"] }));
		window.find = (s) => { const q = document.getElementById("q"); q.value = s; q.dispatchEvent(new Event("input")); };`}, nil))
	// costs does something in the page, waits for it, and says what it took.
	costs := func(what string, most time.Duration, do func(), then string) {
		t.Helper()
		before, began := p.computed(), time.Now()
		do()
		p.until(10*time.Second, then)
		var drawn bool
		w.must(p.Eval(w.ctx, `new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(true))))`, &drawn))
		took, shown := p.computed()-before, time.Since(began)
		t.Logf("%s: %v of a CPU, on the screen after %v", what, took.Round(time.Millisecond), shown.Round(time.Millisecond))
		if took > most {
			t.Errorf("%s takes %v of a CPU, want %v", what, took, most)
		}
	}
	script := func(s string) func() { return func() { w.must(p.Eval(w.ctx, s, nil)) } }
	found := `document.getElementById("found").textContent`

	costs("loading", 500*time.Millisecond, func() { w.must(p.Load(w.ctx, w.url)) },
		fmt.Sprintf(`window.liveAt > 0 && %s === "1 to 100 of %d,%03d"`, found, (more+proxies)/1000, (more+proxies)%1000))
	t.Logf("first paint after %s ms, live after %s ms",
		p.text(`Math.round(performance.getEntriesByName("first-contentful-paint")[0].startTime)`), p.text(`Math.round(liveAt)`))
	costs("a filter", 150*time.Millisecond, script(`find("batch-99")`), found+` === "1 to 11 of 11"`)
	costs("no filter", 150*time.Millisecond, script(`find("")`), found+`.startsWith("1 to 100 of 1,")`)
	costs("sorting", 150*time.Millisecond, script(`document.querySelector("#proxy-table [data-sort=server] button").click()`),
		`document.querySelector("#proxy-table [data-sort=server]").ariaSort === "ascending"`)
	costs("turning over", 150*time.Millisecond, script(`document.querySelector("#pager button:last-child").click()`),
		found+`.startsWith("101 to 200 of")`)

	const quiet = 5 * time.Second
	page, daemon := p.computed(), cpu(w)
	time.Sleep(quiet)
	page, daemon = p.computed()-page, cpu(w)-daemon
	t.Logf("while nothing happens the page takes %.1f %% of a CPU, lictord %.1f %%",
		100*page.Seconds()/quiet.Seconds(), 100*daemon.Seconds()/quiet.Seconds())
	if page > quiet/10 || daemon > quiet/10 {
		t.Errorf("while nothing happens: page %v, lictord %v in %v", page, daemon, quiet)
	}

	// A third of them move at once.
	costs("a drain of a third", 500*time.Millisecond, func() { w.must(client.Drain(w.ctx, "consul-1")) },
		`/\d{3} proxies moved from consul-1/.test(document.getElementById("news").innerText)`)
	w.must(client.Undrain(w.ctx, "consul-1"))
	p.until(10*time.Second, `document.getElementById("news").innerText.includes("consul-1 is no longer drained")`)
	t.Logf("tasks of more than 50 ms, of the clock: %s", p.text(`"[" + long + "]"`))
	p.calm()
}

// computed is the time that the page's main thread has computed.
func (t *tab) computed() time.Duration {
	t.w.Helper()
	var got struct {
		Metrics []struct {
			Name  string
			Value float64
		}
	}
	t.w.must(t.Call(t.w.ctx, "Performance.getMetrics", nil, &got))
	for _, m := range got.Metrics {
		if m.Name == "TaskDuration" {
			return time.Duration(m.Value * float64(time.Second))
		}
	}
	t.w.Fatal("the browser does not tell what it has computed")
	return 0
}

// cpu is the time that lictord has computed.
func cpu(w *world) time.Duration {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.lictor.Process().PID()))
	w.must(err)
	// Fields 14 and 15 of proc(5), in hundredths of a second; the second may
	// hold blanks.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		w.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
