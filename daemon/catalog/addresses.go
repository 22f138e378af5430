package catalog

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// ExecPrefix marks a command among the addresses, as in consul-dataplane.
const ExecPrefix = "exec="

// hostName is a DNS name as people use it, also one with underscores.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// IsName says whether a text can be a host's DNS name.
func IsName(s string) bool { return len(s) <= 253 && hostName.MatchString(s) }

// CheckAddresses says what is wrong with what was given as Config.Addresses.
func CheckAddresses(s string) error {
	_, err := parseAddresses(s)
	return err
}

// spec is what --consul-addresses says, parsed.
type spec struct {
	hosts   []host
	command []string // of exec=; its output is parsed as hosts
}

// host is an address or a name, with a port or without (0).
type host struct {
	name string
	port uint16
}

// parseAddresses reads what --consul-addresses takes.
func parseAddresses(s string) (spec, error) {
	if command, ok := strings.CutPrefix(strings.TrimSpace(s), ExecPrefix); ok {
		words := strings.Fields(command)
		if len(words) == 0 {
			return spec{}, errors.New("nothing after exec=; name the command that prints the servers' addresses")
		}
		return spec{command: words}, nil
	}
	hosts, err := parseHosts(strings.Split(s, ","))
	return spec{hosts: hosts}, err
}

// parseOutput reads what a command prints.
func parseOutput(s string) ([]host, error) {
	words := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	if len(words) == 0 {
		return nil, errors.New("nothing but white space")
	}
	return parseHosts(words)
}

func parseHosts(words []string) (hosts []host, err error) {
	for _, word := range words {
		h, err := parseHost(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// parseHost takes an address or a name, with a port of its own or without.
func parseHost(s string) (host, error) {
	name, port, err := net.SplitHostPort(s)
	if err != nil || name == "" {
		name, err = parseName(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), s)
		return host{name: name}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return host{}, fmt.Errorf("%q: %q is not a port; give a number from 1 to 65535", s, port)
	}
	name, err = parseName(name, s)
	return host{name, uint16(n)}, err
}

// parseName takes the address or name of s.
func parseName(name, s string) (string, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		if !usable(a.Unmap()) {
			return "", fmt.Errorf("%q is no server's address; give one that means the same to every process of the host", s)
		}
		return a.String(), nil
	}
	switch {
	case name == "":
		return "", errors.New("an address is empty; give IP addresses or DNS names with one comma between them")
	case strings.Contains(s, ExecPrefix):
		return "", fmt.Errorf("%q: exec= stands alone, not in a list of addresses", s)
	case !IsName(name):
		return "", fmt.Errorf("%q is neither an IP address nor a DNS name; it is written without a scheme or a path", s)
	case strings.Trim(name, "0123456789.") == "":
		return "", fmt.Errorf("%q is not an IP address, though it looks like one", s)
	}
	return name, nil
}
