package binaries

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
)

// version is the beginning of one: what comes after it changes nothing here.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) before(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// number is a version in what a program says of itself: "Consul v1.20.1", or
// "…/1.38.2/Clean/RELEASE/…".
var number = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.\d+`)

// parseVersion takes the first version from a text.
func parseVersion(text []byte) (v version, err error) {
	m := number.FindSubmatch(text)
	if m == nil {
		return v, fmt.Errorf("no version is in %.80q", text)
	}
	v.major, _ = strconv.Atoi(string(m[1])) // digits
	v.minor, _ = strconv.Atoi(string(m[2]))
	return v, nil
}

// asked holds what programs said of themselves, by path: to ask takes a tenth of a second.
var asked sync.Map

// versionOf asks a program, once in this process.
func versionOf(ctx context.Context, path string, args ...string) (version, error) {
	if known, ok := asked.Load(path); ok {
		return known.(version), nil
	}
	said, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return version{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	v, err := parseVersion(said)
	if err != nil {
		return version{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	asked.Store(path, v)
	return v, nil
}
