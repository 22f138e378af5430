package main

import (
	"strings"
	"testing"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func proxyOn(id, vip string, total uint64, servers ...string) v1.Proxy {
	p := v1.Proxy{ProxyID: id, VIP: vip, Port: 8702, Owner: v1.Owner{Kind: "netns", ID: 7}, Total: total}
	for _, s := range servers {
		p.Servers = append(p.Servers, v1.ServerRef{ID: s})
	}
	return p
}

func TestSameAssignments(t *testing.T) {
	before := books{proxies: []v1.Proxy{proxyOn("a", "239.77.0.1", 1, "s1", "s2"), proxyOn("b", "239.77.0.2", 1, "s2", "s1")}}
	stolen := proxyOn("b", "239.77.0.2", 1, "s2", "s1")
	stolen.Owner.ID = 8
	for _, test := range []struct {
		name  string
		after []v1.Proxy
		want  string // in the error; "": none
	}{
		{"same", before.proxies, ""},
		{"more counted", []v1.Proxy{before.proxies[1], proxyOn("a", "239.77.0.1", 5, "s1", "s2")}, ""},
		{"another VIP", []v1.Proxy{before.proxies[0], proxyOn("b", "239.77.0.9", 1, "s2", "s1")}, "b has 239.77.0.9"},
		{"another server", []v1.Proxy{before.proxies[0], proxyOn("b", "239.77.0.2", 1, "s1", "s2")}, "on s1, s2"},
		{"another owner", []v1.Proxy{before.proxies[0], stolen}, "netns 8"},
		{"one is gone", before.proxies[:1], "b is gone"},
		{"one too many", append(before.proxies, proxyOn("c", "239.77.0.3", 0, "s1")), "3 proxies, there were 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := before.same(books{proxies: test.after})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
		})
	}
}

func TestGrownCounts(t *testing.T) {
	proxies := []v1.Proxy{proxyOn("a", "239.77.0.1", 1, "s1")}
	before := books{proxies: proxies, servers: []v1.Server{{ID: "s1", Established: 5}, {ID: "s2", Established: 3}, {ID: "new"}}}
	for _, test := range []struct {
		name  string
		after books
		more  uint64
		want  string // in the error; "": none
	}{
		{"two more", books{proxies, []v1.Server{{ID: "s1", Established: 6}, {ID: "s2", Established: 4}}, nil}, 2, ""},
		{"none more", before, 0, "was not counted"},
		{"one went back", books{proxies, []v1.Server{{ID: "s1", Established: 9}, {ID: "s2", Established: 2}}, nil}, 0, "s2 had 3"},
		{"one is gone", books{proxies, []v1.Server{{ID: "s1", Established: 9}}, nil}, 0, "s2 are gone"},
		{"a proxy without", books{[]v1.Proxy{proxyOn("a", "239.77.0.1", 0, "s1")}, []v1.Server{{ID: "s1", Established: 9}, {ID: "s2", Established: 3}}, nil}, 0, "for a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			more, err := before.grown(test.after)
			if more != test.more || test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("grown by %d, %v; want %d, %q", more, err, test.more, test.want)
			}
		})
	}
}
