package v1

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits that the daemon enforces, in bytes, so that clients can check first.
const (
	MaxBody = 64 << 10 // of a request's body
	MaxID   = 255      // of an id and of a name
	MaxPath = 4095     // of a file's path; PATH_MAX less the terminating zero
)

// OwnerAny is the only value of RegisterRequest.Owner besides "".
const OwnerAny = "any"

// CheckID says whether id may name a proxy or a server, what being the word
// for it in the error. Ids are Consul's: service ids for proxies, node names
// (or host:port) for servers. Consul takes nearly anything; here an id is 1 to
// MaxID bytes of printable UTF-8 (what Unicode calls graphic, and the space
// inside), without slash and backslash, and begins with neither a dot, which
// means something to paths, nor a hyphen, which means something to commands.
func CheckID(what, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%s is empty", what)
	case len(id) > MaxID:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed", what, len(id), MaxID)
	case !utf8.ValidString(id):
		return fmt.Errorf("%s %q is not valid UTF-8", what, id)
	case id[0] == '.' || id[0] == '-':
		return fmt.Errorf("%s %q begins with %q", what, id, id[0])
	case strings.TrimSpace(id) != id:
		return fmt.Errorf("%s %q begins or ends with a space", what, id)
	}
	for _, r := range id {
		if r == '/' || r == '\\' || !unicode.IsPrint(r) {
			return fmt.Errorf("%s %q contains %q; slashes, backslashes and what cannot be printed are not allowed", what, id, r)
		}
	}
	return nil
}

// Check says what is wrong with the request by itself, naming the field; it
// does not look at the host.
func (r RegisterRequest) Check() error {
	for _, f := range []struct{ name, value string }{
		{"node_name", r.NodeName}, {"namespace", r.Namespace}, {"partition", r.Partition},
	} {
		if f.value == "" {
			continue
		}
		if err := CheckID(f.name, f.value); err != nil {
			return err
		}
	}
	owners := 0
	for _, f := range []struct{ name, value string }{{"netns", r.Netns}, {"cgroup", r.Cgroup}} {
		if f.value == "" {
			continue
		}
		owners++
		if err := checkPath(f.name, f.value); err != nil {
			return err
		}
	}
	if r.Owner != "" {
		owners++
		if r.Owner != OwnerAny {
			return fmt.Errorf(`owner %q is unknown; it is "any", or absent`, r.Owner)
		}
	}
	if owners > 1 {
		return fmt.Errorf("netns, cgroup and owner exclude each other; give at most one")
	}
	if r.Envoy != nil {
		if err := checkSettings(*r.Envoy); err != nil {
			return err
		}
	}
	if r.Credential != nil {
		return r.Credential.Check()
	}
	return nil
}

// OwnerGiven says whether the request names an owner other than the caller's
// network namespace, which only root may.
func (r RegisterRequest) OwnerGiven() bool {
	return r.Netns != "" || r.Cgroup != "" || r.Owner != ""
}

// checkPath says what is wrong with the path of a file on the host.
func checkPath(what, p string) error {
	switch {
	case len(p) > MaxPath:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed", what, len(p), MaxPath)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("%s contains a zero byte", what)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("%s %q contains what cannot be printed", what, p)
	case !path.IsAbs(p):
		return fmt.Errorf("%s %q is not an absolute path", what, p)
	}
	return nil
}
