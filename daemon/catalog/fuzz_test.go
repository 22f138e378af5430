package catalog

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever Consul, or what is taken for it, answers: no panic, and only servers
// that can be connected to.
func FuzzEntries(f *testing.F) {
	good, err := json.Marshal([]entry{node("a", "10.0.0.1", 8502), node("b", "fd00::1", 8502)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add([]byte(`[{"Node":{"Node":"a","Address":"::ffff:10.0.0.1"},"Service":{"Meta":{"grpc_port":"65536"}}}]`), false)
	f.Add([]byte(`[{"Node":null,"Service":{"Meta":null,"TaggedAddresses":{"lan_ipv4":{"Address":"0.0.0.0"}}}}]`), false)
	f.Fuzz(func(t *testing.T, body []byte, tls bool) {
		var entries []entry
		if json.Unmarshal(body, &entries) != nil {
			return
		}
		servers, unusable := parseEntries(entries, tls, 0)
		if len(servers)+len(unusable) > len(entries) {
			t.Errorf("%d servers and %d unusable ones of %d entries", len(servers), len(unusable), len(entries))
		}
		last := ""
		for i, s := range servers {
			if i > 0 && s.ID <= last || s.ID == "" || s.Port == 0 {
				t.Errorf("server %+v after %q", s, last)
			}
			last = s.ID
			if !s.Addr4.IsValid() && !s.Addr6.IsValid() || s.Addr4.IsValid() && !s.Addr4.Is4() || s.Addr6.IsValid() && (!s.Addr6.Is6() || s.Addr6.Is4In6()) {
				t.Errorf("addresses of %+v", s)
			}
		}
	})
}

// What the operator, or the operator's command, gives is refused or understood.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{"10.0.0.1,consul.example:8501", "[::1]:80,fd00::1", "exec=a b", "[", ":", "a:b:c", "[a]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := parseAddresses(in)
		if err != nil {
			return
		}
		if (len(spec.hosts) == 0) == (len(spec.command) == 0) {
			t.Errorf("%q: %+v", in, spec)
		}
		for _, h := range spec.hosts {
			if h.name == "" || strings.ContainsAny(h.name, " ,/\t\n") {
				t.Errorf("%q: host %+v", in, h)
			}
		}
	})
}
