package main

import (
	"context"
	"fmt"
	"os/exec"
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
			d.revive(dead, s.Name, s.Process, func() error { return s.Restart(ctx) })
		}
		d.revive(dead, "lictord", d.mesh.lictor.Process, func() error { return d.mesh.lictor.Start() })
	}
}

// revive starts something again that has been dead for long enough.
func (d *demo) revive(dead map[string]time.Time, name string, process func() *bed.Process, start func() error) {
	if process().Alive() {
		delete(dead, name)
		return
	}
	since, known := dead[name]
	if !known {
		d.feed.say("demo     %s has ended; it is started again in %d s", name, int(restartAfter.Seconds()))
		dead[name] = time.Now()
		return
	}
	if time.Since(since) < restartAfter {
		return
	}
	delete(dead, name)
	if err := start(); err != nil {
		d.feed.say("demo     start %s again: %v", name, err)
		return
	}
	d.feed.say("demo     %s is started again; its pid is %d now", name, process().PID())
}

// hints are commands that work as they stand, in the repository.
func (d *demo) hints() []string {
	m, bold := d.mesh, d.paint.loud
	const in = "  go run ./tools/testbed exec "
	lines := []string{
		bold("It stays up. Try, in another terminal, as root:"),
		"  export LICTOR_SOCKET=" + m.lictor.Socket,
		"  bin/lictor proxies     # or: servers, status, history web-sidecar-proxy",
		"  bin/lictor events --follow",
	}
	if _, err := exec.LookPath("curl"); err != nil {
		lines = append(lines, "  apt-get install curl   # which is not here, for the next ones")
	}
	lines = append(lines,
		in+"host-1 -- curl -s "+bed.LictorHTTP+"/   # or /metrics",
		in+fmt.Sprintf("web -- curl -s 127.0.0.1:%d", upstreamPort),
	)
	if vip := m.late().vip; vip.IsValid() {
		lines = append(lines, in+"web -- curl -sv "+vip.String()+"   # not web's: EPERM")
	}
	kill := fmt.Sprintf("  kill -9 %d   # lictord;", m.lictor.Process().PID())
	for _, s := range m.cluster.Servers() {
		kill += fmt.Sprintf(" %s %d", s.Name, s.Process().PID())
	}
	return append(lines, kill,
		fmt.Sprintf("What you kill is started again after %d s. ", int(restartAfter.Seconds()))+bold("Ctrl-C ends it all."))
}
