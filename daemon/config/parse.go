package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// maxSocketPath is the room in sockaddr_un.sun_path, less the final zero byte
// (unix(7)).
const maxSocketPath = 107

// A pool has room for at least two VIPs beside its first address, which is the
// probe's; it is not so wide that it takes addresses which others surely use.
const (
	widest4, narrowest4 = 8, 30
	widest6, narrowest6 = 16, 126
)

func parsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port; give a number from 1 to 65535", v)
	}
	return uint16(n), nil
}

// parseOptionalPort also takes 0, which means to do without one that is given.
func parseOptionalPort(v string) (uint16, error) {
	if v == "" || v == "0" {
		return 0, nil
	}
	return parsePort(v)
}

func parsePath(v string) (string, error) {
	if v == "" {
		return "", nil
	}
	return parseRequiredPath(v)
}

func parseRequiredPath(v string) (string, error) {
	switch {
	case v == "":
		return "", fmt.Errorf("is empty; give an absolute path, or leave it out for the default")
	case strings.ContainsRune(v, 0):
		return "", fmt.Errorf("%q has a zero byte in it", v)
	case !filepath.IsAbs(v):
		return "", fmt.Errorf("%q is not an absolute path; write it out from /", v)
	}
	return filepath.Clean(v), nil
}

func parseSocket(v string) (string, error) {
	path, err := parseRequiredPath(v)
	if err == nil && len(path) > maxSocketPath {
		return "", fmt.Errorf("the path has %d bytes, and a unix socket's may have %d; choose a shorter one", len(path), maxSocketPath)
	}
	return path, err
}

func parseListen(v string) (string, error) {
	if v == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return "", fmt.Errorf("%q is not HOST:PORT; an IPv6 address stands in brackets, and :9760 means every address", v)
	}
	if _, err := parsePort(port); err != nil {
		return "", err
	}
	if host == "" {
		return v, nil
	}
	if _, err := netip.ParseAddr(host); err != nil && !catalog.IsName(host) {
		return "", fmt.Errorf("%q is neither an IP address nor a host name", host)
	}
	return v, nil
}

// parseServerName takes what a certificate may carry as the name of a server.
func parseServerName(v string) (string, error) {
	if v == "" {
		return "", nil
	}
	if _, err := netip.ParseAddr(v); err != nil && !catalog.IsName(v) {
		return "", fmt.Errorf("%q is neither a DNS name nor an IP address", v)
	}
	return v, nil
}

// parseNodeName takes what Consul takes: a node's name is free text, but must
// fit on a line and in a URL's path.
func parseNodeName(v string) (string, error) {
	const longest = 255
	if len(v) > longest {
		return "", fmt.Errorf("is longer than %d bytes", longest)
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r == '/' || r == unicode.ReplacementChar || !unicode.IsPrint(r) || r == ' ' }) {
		return "", fmt.Errorf("%q has a character that a node's name cannot have: a slash, a space or one that does not print", v)
	}
	return v, nil
}

func parseLevel(v string) (slog.Level, error) {
	switch strings.ToLower(v) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not a level; give debug, info, warn or error", v)
}

func parsePool4(v string) (netip.Prefix, error) {
	return parsePool(v, "IPv4", "239.77.0.0/16", "--vip-cidr6", widest4, narrowest4)
}

func parsePool6(v string) (netip.Prefix, error) {
	return parsePool(v, "IPv6", "ff05::7777:0:0/96", "--vip-cidr", widest6, narrowest6)
}

func parsePool(v, family, example, other string, widest, narrowest int) (netip.Prefix, error) {
	if v == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR; give one such as %s, or \"\" for no %s VIPs", v, example, family)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is an IPv4 pool in IPv6 clothes; give it to --vip-cidr as IPv4", v)
	case p.Addr().Is4() != (family == "IPv4"):
		return netip.Prefix{}, fmt.Errorf("%s is not %s; give it to %s", v, family, other)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits set beyond its prefix; is %s meant?", v, p.Masked())
	case p.Bits() < widest:
		return netip.Prefix{}, fmt.Errorf("%s would take addresses that others use; the widest pool is a /%d", v, widest)
	case p.Bits() > narrowest:
		return netip.Prefix{}, fmt.Errorf("%s has no room; the narrowest pool is a /%d", v, narrowest)
	case p.Addr().IsUnspecified():
		return netip.Prefix{}, fmt.Errorf("%s contains the address that means every address of the host; choose another pool", v)
	}
	return p, nil
}
