package v1

import (
	"strings"
	"testing"
)

func TestCheckID(t *testing.T) {
	good := []string{
		"web-1-sidecar-proxy", "_nomad-task-7f-group-api-web-9001-sidecar-proxy", "a", "web:8080",
		"[::1]:8502", "10.0.0.1:8502", "Büro-proxy", "two words", "50%", "a?b#c", strings.Repeat("x", MaxID),
	}
	for _, id := range good {
		if err := CheckID("proxy id", id); err != nil {
			t.Errorf("CheckID(%q) = %v", id, err)
		}
	}
	bad := map[string]string{
		"empty":           "",
		"too long":        strings.Repeat("x", MaxID+1),
		"10 kB":           strings.Repeat("x", 10<<10),
		"slash":           "a/b",
		"backslash":       `a\b`,
		"parent":          "..",
		"hidden":          ".hidden",
		"flag":            "-f",
		"newline":         "a\nb",
		"zero":            "a\x00b",
		"delete":          "a\x7fb",
		"escape":          "\x1b[31mred",
		"leading space":   " a",
		"trailing space":  "a ",
		"no-break space":  "a\u00a0b",
		"line separator":  "a\u2028b",
		"right to left":   "a\u202eb",
		"byte order mark": "a\ufeffb",
		"not UTF-8":       "a\xffb",
	}
	for name, id := range bad {
		err := CheckID("proxy id", id)
		if err == nil {
			t.Errorf("%s: CheckID(%q) = nil", name, id)
			continue
		}
		if !strings.HasPrefix(err.Error(), "proxy id ") {
			t.Errorf("%s: error %q does not begin with what it is about", name, err)
		}
		if strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Errorf("%s: error %q carries control characters", name, err)
		}
	}
}

func TestRegisterRequestCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		req  RegisterRequest
		want string // in the error; "" means none
	}{
		{"nothing", RegisterRequest{}, ""},
		{"all names", RegisterRequest{NodeName: "n-virtual", Namespace: "default", Partition: "p"}, ""},
		{"netns", RegisterRequest{Netns: "/run/netns/pod"}, ""},
		{"cgroup", RegisterRequest{Cgroup: "/sys/fs/cgroup/a"}, ""},
		{"any", RegisterRequest{Owner: "any"}, ""},
		{"unknown owner", RegisterRequest{Owner: "all"}, `owner "all"`},
		{"two owners", RegisterRequest{Owner: "any", Netns: "/a"}, "exclude each other"},
		{"netns and cgroup", RegisterRequest{Cgroup: "/b", Netns: "/a"}, "exclude each other"},
		{"relative path", RegisterRequest{Netns: "run/netns/pod"}, "netns"},
		{"zero in path", RegisterRequest{Cgroup: "/a\x00b"}, "cgroup"},
		{"long path", RegisterRequest{Netns: "/" + strings.Repeat("a", MaxPath)}, "netns is 4096 bytes"},
		{"node with a slash", RegisterRequest{NodeName: "a/b"}, "node_name"},
		{"namespace with a newline", RegisterRequest{Namespace: "a\nb"}, "namespace"},
		{"long partition", RegisterRequest{Partition: strings.Repeat("a", 300)}, "partition"},
	} {
		err := tc.req.Check()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Check() = %v, want %q", tc.name, err, tc.want)
		}
	}
}
