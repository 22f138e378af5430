package e2e

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// The token by which lictord reads Consul's catalog is in no log, not at the
// level debug either, in no file of its own, in none of its answers and in no
// pinned map; and neither is one that Consul does not accept. The same token given to
// a proxy is only where its Envoy reads it.
func TestTokensAreNotTold(t *testing.T) {
	const good, bad = "0f1e2d3c-feed-4bad-8cab-7a6b5c4d3e2f", "9a8b7c6d-dead-4bee-9fad-1f2e3d4c5b6a"
	w := newWorldWithACLs(t, good)
	file := filepath.Join(w.host.Dir, "token")
	given := map[string][]byte{}
	for _, token := range []string{bad, good} {
		w.must(os.WriteFile(file, []byte(token+"\n"), 0o600))
		var err error
		args := []string{"--consul-token-file=" + file, "--log-level=debug"}
		if w.lictor == nil {
			w.lictor, err = w.host.StartLictor(bed.LictorOptions{Cluster: w.cluster, Args: args})
		} else {
			err = w.lictor.Start()
		}
		w.must(err)
		if token == bad {
			w.must(w.lictor.WaitSocket(w.ctx))
			w.eventually(10*time.Second, func() error {
				client := w.lictor.Client()
				defer client.Close()
				st, err := client.Status(w.ctx)
				if err == nil && st.Consul.LastError == "" {
					err = errors.New("status does not say that Consul refuses the token")
				}
				return err
			})
		} else {
			w.must(w.lictor.WaitReady(w.ctx))
			m := w.join("web")
			w.must(w.connects(m.pod.Node, m.vip(), 0))
			w.registerAs(m.proxy.ID, v1.RegisterRequest{
				NodeName: m.proxy.NodeName, Netns: m.pod.Netns.Path,
				Credential: &v1.Credential{Credential: state.Credential{Type: state.CredentialStatic}, Token: good},
			})
			given["bootstrap"] = []byte(w.cli("bootstrap", "--wait", m.proxy.ID))
			if !bytes.Contains(given["bootstrap"], []byte("token.json")) {
				t.Error("the bootstrap does not name the file of the token, so that nothing is proved")
			}
		}
		for _, page := range []string{"/metrics", "/"} {
			body, err := w.lictor.Get(w.ctx, page)
			w.must(err)
			given[page+token] = body
		}
		log, err := os.ReadFile(w.lictor.Process().Log)
		w.must(err)
		if !bytes.Contains(log, []byte("level=DEBUG")) {
			t.Error("nothing is logged at the level debug, so that nothing is proved")
		}
		given["log"+token] = log
		given["journal"+token] = []byte(w.cli("events"))
	}
	w.must(w.lictor.Term(w.ctx))
	w.must(filepath.WalkDir(w.lictor.State, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may read it", path, info.Mode())
		}
		given[path], err = os.ReadFile(path)
		return err
	}))
	for where, text := range given {
		for _, token := range []string{good, bad} {
			// The first half is enough to be of use to somebody.
			if bytes.Contains(text, []byte(token[:len(token)/2])) {
				t.Errorf("the token is in %s", where)
			}
		}
	}
}

// newWorldWithACLs is a world whose Consul denies everything without a token,
// and in which no lictord runs yet.
func newWorldWithACLs(t *testing.T, token string) *world {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, bed: bed.ForTest(t)}
	var err error
	w.cluster, err = w.bed.StartCluster(ctx, bed.ClusterOptions{Servers: 1, Token: token, Config: map[string]any{
		"acl": map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": token, "agent": token},
		},
	}})
	w.must(err)
	w.host, err = w.bed.NewHost("host-1")
	w.must(err)
	return w
}
