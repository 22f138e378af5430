package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// restartAfter is for how long what somebody has killed stays dead.
const restartAfter = 15 * time.Second

// stay leaves the mesh running until the context ends, says what to try, and
// starts again what was killed.
func (d *demo) stay(ctx context.Context) error {
	if err := d.mesh.bed.Describe(); err != nil {
		return err
	}
	d.ui.print("")
	d.ui.print(d.hints()...)
	dead := map[string]time.Time{}
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // that is how it is meant to end
		case <-tick.C:
		}
		for _, s := range d.mesh.cluster.Servers() {
			d.revive(dead, s.Name, s.Process(), func() error { return s.Restart(ctx) })
		}
		d.revive(dead, "lictord", d.mesh.lictor.Process(), func() error { return d.mesh.lictor.Start() })
	}
}

// revive starts something again that has been dead for long enough.
func (d *demo) revive(dead map[string]time.Time, name string, p *bed.Process, start func() error) {
	if p.Alive() {
		delete(dead, name)
		return
	}
	since, known := dead[name]
	if !known {
		d.feed.say("demo     %s was killed; it is started again in %d s", name, int(restartAfter.Seconds()))
		dead[name] = time.Now()
		return
	}
	if time.Since(since) < restartAfter {
		return
	}
	delete(dead, name)
	d.feed.say("demo     %s is started again", name)
	if err := start(); err != nil {
		d.feed.say("demo     %s: %v", name, err)
	}
}

// hints are commands that work as they stand, in the repository.
func (d *demo) hints() []string {
	m, bold := d.mesh, d.paint.loud
	lines := []string{bold("It stays up. Try, in another terminal:")}
	lines = append(lines, fmt.Sprintf("  export LICTOR_SOCKET=%s", m.lictor.Socket))
	for _, command := range []string{"proxies", "servers", "status", "events --follow", "history web-sidecar-proxy"} {
		lines = append(lines, "  bin/lictor "+command)
	}
	const in = "  go run ./tools/testbed exec "
	lines = append(lines,
		in+"host-1 -- curl -s "+bed.LictorHTTP+"/metrics",
		in+"web -- curl -s 127.0.0.1:"+fmt.Sprint(upstreamPort)+"   # through two Envoys",
		in+"web -- curl -m 2 "+m.late().vip+":8702   # another's VIP: refused",
	)
	for _, s := range m.cluster.Servers() {
		lines = append(lines, fmt.Sprintf("  kill -9 %-8d # %s", s.Process().PID(), s.Name))
	}
	return append(lines,
		fmt.Sprintf("  kill -9 %-8d # lictord", m.lictor.Process().PID()),
		fmt.Sprintf("What you kill is started again after %d s. ", int(restartAfter.Seconds()))+bold("Ctrl-C ends it all."))
}
