package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// redrawEvery is the pace of the view.
const redrawEvery = 100 * time.Millisecond

// demo is one run.
type demo struct {
	ui     *screen
	paint  palette
	report *report
	feed   *feed
	mesh   *mesh
	watch  *watch

	pause time.Duration // after each step, for people to look

	// beside runs something beside the steps, until play ends.
	beside func(do func(context.Context))
}

// run is the demo: it returns the exit status, 0 when everything held.
func run(ctx context.Context, env environment) int {
	started := time.Now()
	paint := palette(env.getenv("NO_COLOR") == "")
	if columns, _ := env.size(); columns == 0 {
		paint = false
	}
	ui := &screen{out: env.stdout, size: env.size}
	d := &demo{
		ui: ui, paint: paint,
		report: &report{ui: ui, paint: paint},
		feed:   &feed{ui: ui, paint: paint, started: started},
	}
	if ui.terminal() {
		d.pause = 2 * time.Second
	}
	keep := env.getenv("KEEP")
	held, err := d.play(ctx, keep != "" && keep != "0")
	interrupted := ctx.Err() != nil
	left := d.takeAway()
	ui.close()
	if last := farewell(interrupted, err, left); last != "" {
		ui.print(last)
	}
	if err != nil || left != nil || !held {
		return 1
	}
	return 0
}

// farewell is the last line; "" when the summary has said it all.
func farewell(interrupted bool, err, left error) string {
	switch {
	case left != nil:
		return fmt.Sprintf("demo: not everything could be taken away: %v; what is left goes by: go run ./tools/testbed down", left)
	case interrupted:
		return "demo: interrupted; everything is taken away"
	case err != nil:
		return "demo: " + err.Error()
	}
	return ""
}

// takeAway removes all that play made.
func (d *demo) takeAway() error {
	if d.mesh == nil {
		return nil
	}
	d.feed.say("demo     taking everything away")
	return d.mesh.close()
}

// play builds the mesh and does the steps. What runs beside them has ended when
// it returns; the mesh is there yet.
func (d *demo) play(ctx context.Context, keep bool) (held bool, err error) {
	length := "half a minute"
	if d.pause > 0 {
		length = "about a minute"
	}
	d.ui.print("Lictor: three Consul servers, one lictord, nine Envoys, in " + length + ".")
	if _, err := binaries.Envoy(ctx, d.ui); err != nil {
		return false, err
	}
	if _, err := binaries.Consul(ctx, d.ui); err != nil {
		return false, err
	}
	b, err := bed.Open(bed.Options{Progress: d.ui})
	if err != nil {
		return false, err
	}
	d.mesh = &mesh{bed: b, members: newMembers()}
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	d.beside = func(do func(context.Context)) { background.Go(func() { do(ctx) }) }

	started := time.Now()
	held = d.report.run(ctx, d.pause, d.script())
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	d.ui.print("")
	d.ui.print(d.report.summary()...)
	d.ui.print(d.totals(time.Since(started)))
	if keep && d.watch != nil {
		return held, d.stay(ctx)
	}
	return held, nil
}

// look starts what watches, and shows the view.
func (d *demo) look() {
	d.watch = &watch{mesh: d.mesh, feed: d.feed}
	d.beside(d.watch.run)
	d.beside(func(ctx context.Context) { d.feed.followJournal(ctx, d.mesh) })
	if !d.ui.terminal() {
		return
	}
	v := &view{demo: d, started: d.feed.started}
	d.ui.show(v.draw)
	d.beside(func(ctx context.Context) {
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				d.ui.draw()
			}
		}
	})
}

// totals says how long it all took, and of all requests how many failed.
func (d *demo) totals(took time.Duration) string {
	ok, failed := d.mesh.requests()
	return fmt.Sprintf("%s requests went through the mesh, %d failed. All in %s.", thousands(ok), failed, seconds(took))
}

// requests counts those of all pairs.
func (m *mesh) requests() (ok, failed int) {
	for _, p := range m.pairs {
		c := p.now()
		ok, failed = ok+c.ok, failed+c.failed
	}
	return ok, failed
}

// failures are the last errors of requests.
func (m *mesh) failures() string {
	var out []string
	for _, p := range m.pairs {
		if err := p.now().err; err != nil {
			out = append(out, fmt.Sprintf("%s to %s: %v", p.from.name, p.to.name, err))
		}
	}
	return strings.Join(out, "; ")
}
