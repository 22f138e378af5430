package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// holdDown is for how long a server to which connects failed is passed over,
// 10 s, and a bit.
const holdDown = 12 * time.Second

func (s *scene) killServer(ctx context.Context) (finding, error) {
	m := s.demo.mesh
	victim, err := m.victim(ctx)
	if err != nil {
		return finding{}, err
	}
	var hit []*member
	for _, who := range m.running() {
		streams, err := m.streams(who)
		if err != nil {
			return finding{}, err
		}
		if streams[victim.Name] > 0 {
			hit = append(hit, who)
		}
	}
	s.answered, _ = m.requests()
	s.victim, s.killed = victim, time.Now()
	if err := victim.Kill(); err != nil {
		return finding{}, err
	}
	s.demo.feed.say("demo     kill -9 %s, which has %s", victim.Name, plural(len(hit), "stream"))
	took, err := m.change(ctx, s.killed)
	return finding{took.last(), fmt.Sprintf("%s had %d streams; the change came elsewhere after %s", victim.Name, len(hit), took.of(hit))}, err
}

func (s *scene) dropServer(ctx context.Context) (finding, error) {
	if s.victim == nil {
		return finding{}, errors.New("no server was killed")
	}
	m := s.demo.mesh
	err := eventually(ctx, func() error {
		servers, err := m.client.Servers(ctx)
		if err != nil {
			return err
		}
		for _, server := range servers {
			if server.ID == s.victim.Name && server.Listed {
				return errors.New("lictord still lists " + server.ID)
			}
		}
		proxies, err := m.client.Proxies(ctx)
		for name, server := range assigned(proxies) {
			if server == s.victim.Name {
				return fmt.Errorf("%s is still placed on %s", name, server)
			}
		}
		return err
	})
	took := time.Since(s.killed)
	if err != nil {
		return finding{}, err
	}
	ok, failed := m.requests()
	if ok -= s.answered; failed > 0 || ok == 0 {
		return finding{}, fmt.Errorf("since the kill %s answered, %d failed: %s", plural(ok, "request"), failed, m.failures())
	}
	_, err = m.agree(ctx)
	return finding{took, fmt.Sprintf("after the kill; %s meanwhile, none failed", plural(ok, "request"))}, err
}

func (s *scene) killLictor(ctx context.Context) (finding, error) {
	d, m := s.demo, s.demo.mesh
	bootstrap, err := m.prepare(ctx, m.late())
	if err != nil {
		return finding{}, err
	}
	if s.before, err = m.agree(ctx); err != nil {
		return finding{}, err
	}
	if err := m.lictor.Kill(); err != nil {
		return finding{}, err
	}
	d.feed.say("demo     kill -9 lictord; %s was registered before", m.late().name)
	if _, err := m.client.Status(ctx); err == nil {
		return finding{}, errors.New("lictord answers, though it was killed")
	}
	took, err := m.startWith(ctx, m.late(), bootstrap)
	if err != nil {
		return finding{}, err
	}
	streams, err := m.streams(m.late())
	return finding{took, fmt.Sprintf("%s, from %s, through %s", m.late().name, only(streams), m.late().vip)}, err
}

func (s *scene) restartLictor(ctx context.Context) (finding, error) {
	d, m := s.demo, s.demo.mesh
	started := time.Now()
	d.feed.say("demo     lictord is started again")
	if err := m.lictor.Start(); err != nil {
		return finding{}, err
	}
	if err := m.lictor.WaitReady(ctx); err != nil {
		return finding{}, err
	}
	took := time.Since(started)
	after, err := m.open(ctx)
	if err != nil {
		return finding{}, err
	}
	return finding{took, fmt.Sprintf("until it was ready; %d VIPs, owners and placements compared", len(after.proxies))}, s.before.same(after)
}

func (s *scene) compareCounts(ctx context.Context) (finding, error) {
	after, err := s.demo.mesh.agree(ctx)
	if err != nil {
		return finding{}, err
	}
	more, err := s.before.grown(after)
	return finding{note: fmt.Sprintf("%s was counted in the meantime, none was lost", plural(int(more), "connection"))}, err
}

// restartServer brings the server back. Streams that live stay where they are;
// the next connect of a proxy that was placed there goes there.
func (s *scene) restartServer(ctx context.Context) (finding, error) {
	if s.victim == nil {
		return finding{}, errors.New("no server was killed")
	}
	select { // else it would be used too, but hesitantly
	case <-ctx.Done():
		return finding{}, context.Cause(ctx)
	case <-time.After(time.Until(s.killed.Add(holdDown))):
	}
	m, started := s.demo.mesh, time.Now()
	s.demo.feed.say("demo     %s is started again", s.victim.Name)
	if err := s.victim.Restart(ctx); err != nil {
		return finding{}, err
	}
	var placed []*member
	err := eventually(ctx, func() error {
		proxies, err := m.client.Proxies(ctx)
		if err != nil {
			return err
		}
		first := assigned(proxies)
		placed = slices.DeleteFunc(slices.Clone(m.running()), func(who *member) bool { return first[who.name] != s.victim.Name })
		if len(placed) == 0 {
			return errors.New("lictord has no proxy on " + s.victim.Name)
		}
		return nil
	})
	if err != nil {
		return finding{}, err
	}
	took := time.Since(started)
	who := placed[0]
	done, err := connect(ctx, who, who.vip)
	if err != nil {
		return finding{}, err
	}
	if done.Server != s.victim.XDS() {
		return finding{}, fmt.Errorf("a connect from %s went to %v, not to %s", who.name, done.Server, s.victim.Name)
	}
	return finding{took, fmt.Sprintf("%s has %d of 9 proxies at their next connect; one from %s came", s.victim.Name, len(placed), who.name)}, nil
}

// victim is the server whose end hurts most, but not the leader: after the
// leader's end a change would have to wait for Consul's election.
func (m *mesh) victim(ctx context.Context) (worst *bed.Server, err error) {
	leader, err := m.cluster.Leader(ctx)
	if err != nil {
		return nil, err
	}
	most := -1
	for _, server := range m.cluster.Servers() {
		n := 0
		for _, who := range m.running() {
			streams, err := m.streams(who)
			if err != nil {
				return nil, err
			}
			n += streams[server.Name]
		}
		if server != leader && n > most {
			worst, most = server, n
		}
	}
	return worst, nil
}
