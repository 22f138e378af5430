package mesh

import (
	"os"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

func init() {
	if os.Getenv("TMP_BOOT") == "" {
		return
	}
	tmpExec = func(w *world, m *member, o bed.ExecOptions) {
		_, err := w.lictor.CLI(w.ctx, m.pod.Node, "register", m.proxy.ID, "--node-name="+m.proxy.NodeName)
		w.must(err)
		doc, err := w.lictor.CLI(w.ctx, m.pod.Node, "bootstrap", m.proxy.ID)
		w.must(err)
		m.envoy, err = m.pod.StartEnvoy(w.ctx, bed.EnvoyOptions{Bootstrap: doc})
		w.must(err)
		m.pid = m.envoy.PID()
	}
}

var tmpExec func(w *world, m *member, o bed.ExecOptions)
