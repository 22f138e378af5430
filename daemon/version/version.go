// Package version tells which build of Lictor a binary is. The daemon and the
// CLI share it, as they are built and shipped together.
package version

import (
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile: -ldflags "-X …/daemon/version.version=v1.2.3".
var version string

// Version is the release or the commit that the binary was built from: what the
// Makefile stamped, else what the go command recorded, else "devel". It is safe
// for concurrent use.
func Version() string {
	info, _ := debug.ReadBuildInfo()
	return choose(version, info)
}

// String is Version with what it was built with, for people:
// "v1.2.3 (go1.26.8 linux/amd64)".
func String() string {
	return Version() + " (" + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + ")"
}

// choose takes the first that is known of: the stamp, the module's version
// ("go install …@v1.2.3"), the commit ("go build" in a checkout).
func choose(stamp string, info *debug.BuildInfo) string {
	if stamp != "" {
		return stamp
	}
	if info == nil {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if commit == "" {
		return "devel"
	}
	const short = 12 // digits, as the go command's pseudo-versions have
	return commit[:min(short, len(commit))] + dirty
}
