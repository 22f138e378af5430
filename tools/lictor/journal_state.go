package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// showState shows the servers, proxies and tokens of a state.
func (j *journalApp) showState(s state.State) {
	if s.Seq == 0 {
		j.printf("nothing had happened yet\n")
		return
	}
	j.printf("%s\n\n", j.stateTitle(s))
	j.printTable(j.serverTable(s), "no servers")
	j.printf("\n")
	t := table{heads: []string{"PROXY", "NODE", "NAMESPACE", "PARTITION", "VIP", "VIP6", "OWNER", "SERVERS", "BECAUSE", "PLACED",
		"CREDENTIAL", "REGISTERED"}}
	for _, id := range slices.Sorted(maps.Keys(s.Proxies)) {
		p := s.Proxies[id]
		vip, vip6 := vipTexts(p)
		t.add(id, p.Node, p.Namespace, p.Partition, vip, vip6, words(string(p.Owner.Kind), p.Owner.Path),
			strings.Join(p.Ranked, ","), placeWords(p.Reason), j.clock(p.Placed), recordedCredential(p), j.clock(p.Registered))
	}
	j.printTable(t, "no proxies")
	if len(s.Logins) > 0 {
		t = table{heads: []string{"TOKEN", "OF PROXY", "AUTH METHOD", "EXPIRES"}}
		for _, accessor := range slices.Sorted(maps.Keys(s.Logins)) {
			l := s.Logins[accessor]
			expires := "never"
			if !l.Expires.IsZero() {
				expires = j.clock(l.Expires)
			}
			t.add(accessor, l.ProxyID, l.AuthMethod, expires)
		}
		j.printf("\n")
		j.printTable(t, "")
	}
}

func (j *journalApp) stateTitle(s state.State) string {
	return fmt.Sprintf("after event %d, of %s", s.Seq, s.Time.In(j.zone).Format("2006-01-02 15:04:05 MST"))
}

// serverTable has the servers that were listed, and those drained besides.
func (j *journalApp) serverTable(s state.State) table {
	t := table{heads: []string{"SERVER", "ADDRESS", "ADDRESS6", "PORT", "VERSION", "PROXIES", "DRAINED", "LISTED SINCE"}}
	first := map[string]int{}
	for _, p := range s.Proxies {
		if len(p.Ranked) > 0 {
			first[p.Ranked[0]]++
		}
	}
	all := maps.Clone(first)
	for id := range s.Servers {
		all[id] += 0
	}
	for id := range s.Drained {
		all[id] += 0
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		drained := ""
		if d, is := s.Drained[id]; is {
			who, scope := drainer(d.By)
			drained = strings.TrimSpace(scope+" by "+who) + j.since(d.Since)
		}
		server := s.Servers[id]
		if server == nil {
			t.add(id, "", "", "", "", first[id], drained, "not listed")
			continue
		}
		addr4, addr6 := "", ""
		if server.Addr4.IsValid() {
			addr4 = server.Addr4.String()
		}
		if server.Addr6.IsValid() {
			addr6 = server.Addr6.String()
		}
		t.add(id, addr4, addr6, server.Port, server.Version, first[id], drained, j.clock(server.Since))
	}
	return t
}

// since is when something began, as the end of some words; "" when not known.
func (a *app) since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + a.clock(t)
}

func vipTexts(p *state.Proxy) (vip, vip6 string) {
	if p.VIP.IsValid() {
		vip = p.VIP.String()
	}
	if p.VIP6.IsValid() {
		vip6 = p.VIP6.String()
	}
	return vip, vip6
}

// placeWords says in short why a proxy was placed.
func placeWords(reason state.PlaceReason) string {
	switch reason {
	case state.PlaceInitial:
		return "registered"
	case state.PlaceServerGone:
		return "server gone"
	case state.PlaceRebalance:
		return "evened out"
	case state.PlaceConnectFailed:
		return "connect failed"
	case state.PlaceBounced:
		return "refused (bounced)"
	case state.PlaceOperator:
		return "drain, or end of one"
	}
	return string(reason)
}

// recordedCredential says how a proxy stood with its credential.
func recordedCredential(p *state.Proxy) string {
	kind := ""
	if p.Credential != nil {
		kind = string(p.Credential.Type)
	}
	switch {
	case kind == "" && p.CredentialState == "":
		return ""
	case p.CredentialState == "":
		return kind
	}
	return words(kind, string(p.CredentialState))
}

// showProxyOf tells of one proxy as it was.
func (j *journalApp) showProxyOf(s state.State, id string) error {
	p := s.Proxies[id]
	if p == nil {
		return fmt.Errorf("%s was not registered %s; lictor history %s says when it was", id, j.stateTitle(s), id)
	}
	if j.json {
		return j.writeJSON(p)
	}
	j.printf("%s\n\n", clean(j.stateTitle(s)))
	server := "on no server"
	if len(p.Ranked) > 0 {
		server = "on " + p.Ranked[0]
		if len(p.Ranked) > 1 {
			server += ", next would be " + strings.Join(p.Ranked[1:], ", ")
		}
	}
	vip, vip6 := vipTexts(p)
	process := ""
	if p.Process != nil && p.Process.PID != 0 {
		process = fmt.Sprintf("%d", p.Process.PID)
	}
	credential := recordedCredential(p)
	if credential != "" {
		credential = join(credential+j.since(p.CredentialSince), p.CredentialProblem)
	}
	for _, line := range [][2]string{
		{"proxy", p.ID}, {"server", server},
		{"because", placeWords(p.Reason) + j.since(p.Placed)},
		{"node", words(p.Node, p.Namespace, p.Partition)}, {"VIP", words(vip, vip6)},
		{"owner", words(string(p.Owner.Kind), p.Owner.Path)}, {"process", process}, {"credential", credential},
		{"registered", fmt.Sprintf("%s, event %d", j.clock(p.Registered), p.Seq)},
	} {
		if line[1] != "" {
			j.printf("%-10s  %s\n", line[0], clean(line[1]))
		}
	}
	j.printf("\nlictor history %s says who or what moved it\n", clean(id))
	return nil
}
