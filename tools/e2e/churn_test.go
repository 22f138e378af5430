package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// A hundred proxies with tokens by login come, go and crash at random, and so
// does lictord: of none that is gone anything is left: no registration, VIP,
// entry in the kernel's map, token in Consul, sealed secret or file. CHURN is
// how long it goes on, `make churn` gives it a minute.
func TestChurnLeavesNothing(t *testing.T) {
	length := 12 * time.Second
	if text := os.Getenv("CHURN"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHURN is how long it goes on, such as 1m: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := newChurn(t, length, seed)
	c.run(length)
	for i := range c.running {
		c.end(i, syscall.SIGKILL)
	}
	// A proxy whose process ended keeps its place for a minute.
	began := time.Now()
	c.eventually(100*time.Second, c.nothingLeft)
	t.Logf("%v; nothing is left %v after the last had ended", c.done, time.Since(began).Round(time.Second))
	for _, what := range []string{"started", "crashed", "terminated", "deregistered", "lictord crashed"} {
		if c.done[what] == 0 {
			t.Errorf("nothing was %s, so that nothing is proved of it", what)
		}
	}
	t.Logf("tokens that no lictord was told of, as it was killed %d times: %v", len(c.kills), c.unheard)
	if c.tokens == 0 {
		t.Error("no token was ever there, so that nothing is proved of them")
	}
}

// churn is proxies that come and go. Their Envoy is a program that does nothing:
// there can be a hundred of it, and what is looked for is lictord's.
type churn struct {
	*world
	rand    *rand.Rand
	login   *bed.Login
	bearer  string // path
	envoy   string // path
	pods    []*bed.Pod
	proxies []bed.Proxy
	running map[int]*bed.Envoy
	done    map[string]int
	tokens  int         // most that were there at once
	kills   []time.Time // of lictord
	unheard []string    // tokens that are left, by accessor: see untold
}

func newChurn(t *testing.T, length time.Duration, seed uint64) *churn {
	t.Helper()
	const proxies, perPod = 100, 10
	w := newBareWorld(t, length+4*time.Minute, bed.ClusterOptions{Servers: 1, ACL: true})
	w.startLictor(bed.LictorOptions{Cluster: w.cluster})
	c := &churn{
		world: w, rand: rand.New(rand.NewPCG(seed, 0)), running: map[int]*bed.Envoy{}, done: map[string]int{},
		proxies: make([]bed.Proxy, proxies),
	}
	var err error
	c.login, err = w.cluster.NewLogin(w.ctx, bed.LoginOptions{})
	w.must(err)
	text, err := c.login.Bearer("web", time.Hour)
	w.must(err)
	c.bearer = w.file("bearer", text, 0o644)
	c.envoy = w.file("envoy", "#!/bin/sh\nexec sleep 1000\n", 0o755)
	for i := range proxies / perPod {
		pod, err := w.host.NewPod(fmt.Sprintf("pod-%d", i))
		w.must(err)
		c.pods = append(c.pods, pod)
	}
	var group errgroup.Group
	group.SetLimit(8)
	for i := range c.proxies {
		group.Go(func() (err error) {
			c.proxies[i], err = w.cluster.Register(w.ctx, bed.Service{Name: "web", ID: fmt.Sprintf("web-%d", i), Node: w.host.Name + "-virtual"})
			return err
		})
	}
	w.must(group.Wait())
	return c
}

// run does something to a proxy picked at random, again and again.
func (c *churn) run(length time.Duration) {
	c.Helper()
	crash := time.Now().Add(3 * time.Second)
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(crash) {
			crash = time.Now().Add(4 * time.Second)
			c.done["lictord crashed"]++
			c.kills = append(c.kills, time.Now())
			c.must(c.lictor.Start()) // by kill -9
			c.must(c.lictor.WaitSocket(c.ctx))
			list, err := c.cluster.Tokens(c.ctx, c.login.Name)
			c.must(err)
			c.tokens = max(c.tokens, len(list))
		}
		i := c.rand.IntN(len(c.proxies))
		if c.running[i] == nil {
			c.start(i)
			continue
		}
		switch c.rand.IntN(3) {
		case 0:
			c.end(i, syscall.SIGKILL)
			c.done["crashed"]++
		case 1:
			c.end(i, syscall.SIGTERM)
			c.done["terminated"]++
		case 2:
			c.cli("deregister", c.proxies[i].ID)
			c.end(i, syscall.SIGKILL)
			c.done["deregistered"]++
		}
	}
}

func (c *churn) start(i int) {
	c.Helper()
	e, err := c.lictor.Exec(c.ctx, c.pods[i%len(c.pods)].Node, bed.ExecOptions{
		Proxy: c.proxies[i], Credential: bed.Credential{Login: c.login, Bearer: c.bearer}, Flags: []string{"--envoy=" + c.envoy},
	})
	c.must(err)
	c.running[i] = e
	c.done["started"]++
}

// end ends a process, whatever it has become by now. SIGTERM may be left for
// lictord to see, which gets no answer from what is no Envoy.
func (c *churn) end(i int, sig syscall.Signal) {
	c.Helper()
	e := c.running[i]
	delete(c.running, i)
	if err := e.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.must(err)
	}
	if sig == syscall.SIGTERM {
		select {
		case <-e.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.must(e.Kill())
}

// nothingLeft complains about what is there of any proxy.
func (c *churn) nothingLeft() error {
	var errs []error
	if n := len(c.world.proxies()); n > 0 {
		errs = append(errs, fmt.Errorf("%d proxies are registered", n))
	}
	if n := len(c.openVIPs().entries()); n > 0 {
		errs = append(errs, fmt.Errorf("%d VIPs are in the map", n))
	}
	list, err := c.cluster.Tokens(c.ctx, c.login.Name)
	c.must(err)
	c.unheard = nil
	for _, token := range list {
		if c.atAKill(token.CreateTime) {
			c.unheard = append(c.unheard, token.AccessorID)
			continue
		}
		made := token.CreateTime
		next := slices.IndexFunc(c.kills, made.Before)
		err := fmt.Errorf("token %s, %q, of %s is in Consul", token.AccessorID, token.Description, made.Format(time.StampMilli))
		if next >= 0 {
			err = fmt.Errorf("%w; lictord was killed %v later", err, c.kills[next].Sub(made).Round(time.Millisecond))
		}
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, c.files())...); err != nil {
		return err
	}
	return c.untold()
}

// atAKill tells whether a token was made when lictord was killed: Consul answers
// a login when its disk has synced.
func (c *churn) atAKill(made time.Time) bool {
	for _, killed := range c.kills {
		if since := killed.Sub(made); since > -200*time.Millisecond && since < 500*time.Millisecond {
			return true
		}
	}
	return false
}

// untold complains about a token that is left though lictord was told of it. What
// it was never told of, as it was killed while Consul made it, it cannot log out:
// such a token ends by its auth method's lifetime. There may be several a kill,
// for proxies log in beside each other.
func (c *churn) untold() error {
	if len(c.unheard) == 0 {
		return nil
	}
	client := c.lictor.Client()
	defer client.Close()
	logins := 0
	err := client.Journal(c.ctx, 0, false, func(e v1.JournalEvent) error {
		if e.Kind != string(state.KindLoggedIn) {
			return nil
		}
		logins++
		var in state.LoggedIn
		if err := json.Unmarshal(e.Data, &in); err != nil {
			return err
		}
		if slices.Contains(c.unheard, in.Accessor) {
			return fmt.Errorf("token %s is in Consul, and in the journal as %d", in.Accessor, e.Seq)
		}
		return nil
	})
	if err == nil && logins == 0 {
		err = errors.New("no login is in the journal, so that nothing is proved of them")
	}
	return err
}

// files complains about files and directories that are of a proxy.
func (c *churn) files() error {
	var left []string
	err := filepath.WalkDir(c.host.Dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went while we walked
		}
		rest := strings.TrimPrefix(path, c.host.Dir)
		if strings.Contains(rest, "sidecar-proxy") || strings.Contains(rest, "/sealed/") || strings.Contains(rest, "/credentials/") {
			left = append(left, rest)
		}
		return err
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d files are left, such as %s", len(left), left[0])
	}
	return err
}
