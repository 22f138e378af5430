package config

import (
	"errors"
	"fmt"
	"net/netip"
)

// check finds settings that contradict each other.
func check(c Config) error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ConsulAddresses == "" {
		say("--consul-addresses is not set; name at least one Consul server by address or DNS name, or a command by exec=")
	}
	if !c.VIPCIDR.IsValid() && !c.VIPCIDR6.IsValid() {
		say("--vip-cidr and --vip-cidr6 are both off, so that there are no VIPs to give; leave one of them at its default")
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		say("--tls-cert and --tls-key belong together; give both or neither")
	}
	if c.TLS.Disabled {
		for _, f := range []struct{ name, value string }{
			{"ca-certs", c.TLS.CACerts},
			{"tls-cert", c.TLS.Cert},
			{"tls-key", c.TLS.Key},
			{"tls-server-name", c.TLS.ServerName},
		} {
			if f.value != "" {
				say("--%s means nothing with --tls-disabled; drop one of them", f.name)
			}
		}
	}
	return errors.Join(errs...)
}

// warnings says what accepted settings cost. portSet: somebody chose the HTTP
// port.
func warnings(c Config, portSet bool) []string {
	var all []string
	if p := c.VIPCIDR; p.IsValid() && !within(p, netip.MustParsePrefix("224.0.0.0/4")) {
		all = append(all, losing("--vip-cidr", p, "224.0.0.0/4"))
	}
	if p := c.VIPCIDR6; p.IsValid() && !within(p, netip.MustParsePrefix("ff00::/8")) {
		all = append(all, losing("--vip-cidr6", p, "ff00::/8"))
	}
	if !c.TLS.Disabled && !portSet {
		all = append(all, fmt.Sprintf("TLS is on and --consul-http-port is at its default %d, on which Consul speaks plain HTTP unless told otherwise; its HTTPS is usually on 8501", c.ConsulHTTPPort))
	}
	return all
}

func losing(flag string, p netip.Prefix, multicast string) string {
	return fmt.Sprintf("%s %s is not multicast (%s): while the hook is not in effect, a connect to a VIP can leave the host or reach "+
		"a local listener, which would then be handed the proxy's token; with a multicast pool the kernel answers ENETUNREACH", flag, p, multicast)
}

// within says whether all of p lies in outer.
func within(p, outer netip.Prefix) bool {
	return p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}
