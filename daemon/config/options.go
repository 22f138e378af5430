package config

import (
	"fmt"
	"strconv"

	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// option is one setting. Its name is the flag's; the environment has it in
// capitals with LICTOR_ before it, the file with underscores.
type option struct {
	name  string
	value string // what the value is called in the help; "" for a switch
	def   string // in the flag's own notation
	shows string // what the help says in place of def, where def is empty
	help  string
	set   func(*Config, string) error
	list  bool   // the file may give it as a list
	group string // heading in the help, "" to stay under the one before
}

// isSwitch says whether the flag may stand without a value.
func (o option) isSwitch() bool { return o.value == "" }

// configFile is the one option that cannot be in the file. It sets nothing: Load
// reads the file before it applies the options.
const configFile = "config-file"

// options are all settings, in the order of the help.
var options = []option{
	{
		group: "Finding Consul", name: "consul-addresses", value: "LIST", shows: "required", list: true,
		help: "where to find a first server: IP addresses and DNS names, separated by commas, each with a port of its own where it needs one; or exec=COMMAND, which prints such addresses within 10 s",
		set:  func(c *Config, v string) error { c.ConsulAddresses = v; return catalog.CheckAddresses(v) },
	},
	{
		name: "consul-http-port", value: "PORT", def: "8500",
		help: "port of the servers' HTTP API; with TLS it is usually 8501; 0 where it is not open: servers are followed over gRPC",
		set:  func(c *Config, v string) (err error) { c.ConsulHTTPPort, err = parseOptionalPort(v); return err },
	},
	{
		name: "consul-grpc-port", value: "PORT", shows: "from the catalog",
		help: "port on which the servers speak xDS; where the catalog is not asked 8503, or 8502 with --tls-disabled",
		set:  func(c *Config, v string) (err error) { c.ConsulGRPCPort, err = parseOptionalPort(v); return err },
	},
	{
		name: "consul-dns-port", value: "PORT", def: "8600",
		help: "port of the servers' DNS; of no effect yet, as DNS is not redirected",
		set:  func(c *Config, v string) (err error) { c.ConsulDNSPort, err = parsePort(v); return err },
	},
	{
		name: "consul-token-file", value: "FILE", shows: "no token",
		help: "file with the ACL token, read anew when it changes; needs service:read on consul and node:read",
		set:  func(c *Config, v string) (err error) { c.ConsulTokenFile, err = parsePath(v); return err },
	},
	{
		name: "server-watch-disabled", def: "false",
		help: "use the addresses as given, as for a load balancer, instead of following the catalog",
		set:  func(c *Config, v string) (err error) { c.ServerWatchDisabled, err = parseBool(v); return err },
	},
	{
		group: "TLS to Consul", name: "tls-disabled", def: "false",
		help: "speak to Consul in plain text; tokens and the mesh's configuration can then be read on the way",
		set:  func(c *Config, v string) (err error) { c.TLS.Disabled, err = parseBool(v); return err },
	},
	{
		name: "ca-certs", value: "PATH", shows: "the system's roots",
		help: "file or directory with the PEM certificates that sign the servers' certificates",
		set:  func(c *Config, v string) (err error) { c.TLS.CACerts, err = parsePath(v); return err },
	},
	{
		name: "tls-cert", value: "FILE", shows: "none",
		help: "client certificate, PEM",
		set:  func(c *Config, v string) (err error) { c.TLS.Cert, err = parsePath(v); return err },
	},
	{
		name: "tls-key", value: "FILE", shows: "none",
		help: "key of the client certificate, PEM",
		set:  func(c *Config, v string) (err error) { c.TLS.Key, err = parsePath(v); return err },
	},
	{
		name: "tls-server-name", value: "NAME", shows: "the address dialed",
		help: "name that the servers' certificates must carry, such as server.dc1.consul",
		set:  func(c *Config, v string) (err error) { c.TLS.ServerName, err = parseServerName(v); return err },
	},
	{
		group: "This host", name: "cgroup", value: "DIR", shows: "the root of the cgroup2 mount",
		help: "cgroup-v2 directory whose processes are redirected",
		set:  func(c *Config, v string) (err error) { c.Cgroup, err = parsePath(v); return err },
	},
	{
		name: "bpffs", value: "DIR", def: "/sys/fs/bpf/lictor",
		help: "where programs and maps are pinned; a BPF file system is mounted there where there is none",
		set:  func(c *Config, v string) (err error) { c.BPFFS, err = parseRequiredPath(v); return err },
	},
	{
		name: "state-dir", value: "DIR", def: "/var/lib/lictor",
		help: "where the journal is kept, on a disk that survives a reboot",
		set:  func(c *Config, v string) (err error) { c.StateDir, err = parseRequiredPath(v); return err },
	},
	{
		name: "node-name", value: "NAME", shows: "the host's name",
		help: "Consul node of proxies that are registered without one",
		set:  func(c *Config, v string) (err error) { c.NodeName, err = parseNodeName(v); return err },
	},
	{
		group: "VIPs", name: "vip-cidr", value: "CIDR", def: "239.77.0.0/16",
		help: `pool of IPv4 VIPs; "" for none. Outside 224.0.0.0/4 a VIP can leave the host while the hook is not in effect`,
		set:  func(c *Config, v string) (err error) { c.VIPCIDR, err = parsePool4(v); return err },
	},
	{
		name: "vip-cidr6", value: "CIDR", def: "ff05::7777:0:0/96",
		help: `pool of IPv6 VIPs; "" for none. Outside ff00::/8 the same holds`,
		set:  func(c *Config, v string) (err error) { c.VIPCIDR6, err = parsePool6(v); return err },
	},
	{
		name: "vip-port", value: "PORT", def: "8702",
		help: "port of a VIP that means xDS, whatever port the servers listen on",
		set:  func(c *Config, v string) (err error) { c.VIPPort, err = parsePort(v); return err },
	},
	{
		group: "Listening", name: "socket", value: "FILE", def: "/run/lictor/lictor.sock",
		help: "unix socket of the API",
		set:  func(c *Config, v string) (err error) { c.Socket, err = parseSocket(v); return err },
	},
	{
		name: "http-addr", value: "HOST:PORT", def: "127.0.0.1:9760",
		help: `address of /metrics, /healthz, /readyz and the status page, all read-only; "" for none`,
		set:  func(c *Config, v string) (err error) { c.HTTPAddr, err = parseListen(v); return err },
	},
	{
		group: "Logging", name: "log-level", value: "LEVEL", def: "info",
		help: "debug, info, warn or error",
		set:  func(c *Config, v string) (err error) { c.LogLevel, err = parseLevel(v); return err },
	},
	{
		name: "log-json", def: "false",
		help: "log JSON, one object a line",
		set:  func(c *Config, v string) (err error) { c.LogJSON, err = parseBool(v); return err },
	},
	{
		group: "Other", name: configFile, value: "FILE", shows: "none",
		help: "settings in HCL (.hcl) or JSON (.json), by the flags' names with underscores",
		set:  func(*Config, string) error { return nil },
	},
}

func parseBool(v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", v)
	}
	return b, nil
}
