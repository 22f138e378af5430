package bootstrap

import "strings"

// Environ is Params.Env for the environment of a process, as
// /proc/PID/environ has it: what it was started with. Of a name that comes
// twice the first counts, as for the C library.
func Environ(raw string) func(name string) (value string, ok bool) {
	vars := map[string]string{}
	for v := range strings.SplitSeq(raw, "\x00") {
		name, value, ok := strings.Cut(v, "=")
		if _, again := vars[name]; ok && !again {
			vars[name] = value
		}
	}
	return func(name string) (string, bool) {
		value, ok := vars[name]
		return value, ok
	}
}
