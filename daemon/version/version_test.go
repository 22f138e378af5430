package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	commit := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main: debug.Module{Version: "(devel)"},
			Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: "0123456789abcdef0123"},
				{Key: "vcs.modified", Value: modified},
			},
		}
	}
	tests := map[string]struct {
		stamp string
		info  *debug.BuildInfo
		want  string
	}{
		"stamped by make":      {"v1.2.3", commit("true"), "v1.2.3"},
		"go install":           {"", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		"go build, clean":      {"", commit("false"), "0123456789ab"},
		"go build, changed":    {"", commit("true"), "0123456789ab-dirty"},
		"without the checkout": {"", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel"},
		"without build info":   {"", nil, "devel"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := choose(tt.stamp, tt.info); got != tt.want {
				t.Errorf("choose = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestStringNamesTheToolchain(t *testing.T) {
	if got := String(); !strings.HasPrefix(got, Version()+" (go") {
		t.Errorf("String() = %q", got)
	}
}
