package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// required is the one flag without which nothing loads.
const required = "--consul-addresses=10.0.0.1"

// write puts a config file of the given name into a directory of its own.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreTheContract(t *testing.T) {
	got, err := Load([]string{required}, nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got.Warnings = nil
	want := Config{
		ConsulAddresses: "10.0.0.1",
		ConsulHTTPPort:  8500,
		ConsulDNSPort:   8600,
		BPFFS:           "/sys/fs/bpf/lictor",
		StateDir:        "/var/lib/lictor",
		Socket:          "/run/lictor/lictor.sock",
		HTTPAddr:        "127.0.0.1:9760",
		VIPCIDR:         netip.MustParsePrefix("239.77.0.0/16"),
		VIPCIDR6:        netip.MustParsePrefix("ff05::7777:0:0/96"),
		VIPPort:         8702,
		NodeName:        host,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Each option is given by flag, by environment and by file, and must come out
// the same; its default must not be what is given, or the test shows nothing.
func TestEveryOptionFromEverySource(t *testing.T) {
	tests := map[string]struct {
		value string   // for flag and environment
		extra []string // what check wants besides
		want  func(*Config)
	}{
		"consul-addresses": {"a.example, 10.0.0.2,[fd00::1],b:8500,[fd00::2]:8501", nil, func(c *Config) {
			c.ConsulAddresses = "a.example, 10.0.0.2,[fd00::1],b:8500,[fd00::2]:8501"
		}},
		"consul-http-port":      {"8501", nil, func(c *Config) { c.ConsulHTTPPort = 8501 }},
		"consul-grpc-port":      {"8502", nil, func(c *Config) { c.ConsulGRPCPort = 8502 }},
		"consul-dns-port":       {"53", nil, func(c *Config) { c.ConsulDNSPort = 53 }},
		"consul-token-file":     {"/t", nil, func(c *Config) { c.ConsulTokenFile = "/t" }},
		"server-watch-disabled": {"true", nil, func(c *Config) { c.ServerWatchDisabled = true }},
		"tls-disabled":          {"true", nil, func(c *Config) { c.TLS.Disabled = true }},
		"ca-certs":              {"/ca", nil, func(c *Config) { c.TLS.CACerts = "/ca" }},
		"tls-cert":              {"/c", []string{"--tls-key=/k"}, func(c *Config) { c.TLS.Cert, c.TLS.Key = "/c", "/k" }},
		"tls-key":               {"/k", []string{"--tls-cert=/c"}, func(c *Config) { c.TLS.Cert, c.TLS.Key = "/c", "/k" }},
		"tls-server-name":       {"server.dc1.consul", nil, func(c *Config) { c.TLS.ServerName = "server.dc1.consul" }},
		"cgroup":                {"/sys/fs/cgroup/x/", nil, func(c *Config) { c.Cgroup = "/sys/fs/cgroup/x" }},
		"bpffs":                 {"/b", nil, func(c *Config) { c.BPFFS = "/b" }},
		"state-dir":             {"/s", nil, func(c *Config) { c.StateDir = "/s" }},
		"node-name":             {"n-1", nil, func(c *Config) { c.NodeName = "n-1" }},
		"vip-cidr":              {"239.1.2.0/24", nil, func(c *Config) { c.VIPCIDR = netip.MustParsePrefix("239.1.2.0/24") }},
		"vip-cidr6":             {"", nil, func(c *Config) { c.VIPCIDR6 = netip.Prefix{} }},
		"vip-port":              {"65535", nil, func(c *Config) { c.VIPPort = 65535 }},
		"socket":                {"/s.sock", nil, func(c *Config) { c.Socket = "/s.sock" }},
		"http-addr":             {"[::1]:80", nil, func(c *Config) { c.HTTPAddr = "[::1]:80" }},
		"log-level":             {"debug", nil, func(c *Config) { c.LogLevel = slog.LevelDebug }},
		"log-json":              {"true", nil, func(c *Config) { c.LogJSON = true }},
	}
	for _, o := range options {
		if o.name == configFile {
			continue
		}
		tt, ok := tests[o.name]
		if !ok {
			t.Errorf("--%s has no test", o.name)
			continue
		}
		// The required flag would hide consul-addresses in the other sources.
		args := append([]string{}, tt.extra...)
		if o.name != "consul-addresses" {
			args = append(args, required)
		}
		want, err := Load([]string{required}, nil)
		if err != nil {
			t.Fatal(err)
		}
		before := want
		tt.want(&want)
		if reflect.DeepEqual(before, want) {
			t.Errorf("--%s is tested with its default", o.name)
		}
		key := fileKey(o.name)
		sources := map[string]func() (Config, error){
			"flag": func() (Config, error) { return Load(append(args, "--"+o.name+"="+tt.value), nil) },
			"env":  func() (Config, error) { return Load(args, []string{"X=1", envKey(o.name) + "=" + tt.value}) },
			"hcl": func() (Config, error) {
				return Load(append(args, "--config-file", write(t, "c.hcl", key+` = "`+tt.value+"\"\n")), nil)
			},
			"json": func() (Config, error) {
				return Load(append(args, "--config-file", write(t, "c.json", `{"`+key+`": "`+tt.value+`"}`)), nil)
			},
		}
		for source, load := range sources {
			t.Run(o.name+"/"+source, func(t *testing.T) {
				got, err := load()
				if err != nil {
					t.Fatal(err)
				}
				got.Warnings, want.Warnings = nil, nil
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		}
	}
}

func TestSwitchesStandAlone(t *testing.T) {
	c, err := Load([]string{required, "--tls-disabled", "--log-json=false"}, []string{"LICTOR_LOG_JSON=true"})
	if err != nil || !c.TLS.Disabled || c.LogJSON {
		t.Errorf("tls disabled %v, log json %v, %v", c.TLS.Disabled, c.LogJSON, err)
	}
}

func TestPrecedence(t *testing.T) {
	const flag, env, file = "--vip-port=1", "LICTOR_VIP_PORT=2", "vip_port = 3\n"
	tests := map[string]struct {
		flag, env, file string
		want            uint16
	}{
		"nothing":              {"", "", "", 8702},
		"file":                 {"", "", file, 3},
		"env":                  {"", env, "", 2},
		"flag":                 {flag, "", "", 1},
		"env over file":        {"", env, file, 2},
		"flag over file":       {flag, "", file, 1},
		"flag over env":        {flag, env, "", 1},
		"flag over all":        {flag, env, file, 1},
		"flag of the default":  {"--vip-port=8702", env, file, 8702},
		"hidden errors are no": {flag, "LICTOR_VIP_PORT=x", "vip_port = -1\n", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args, environ := []string{required}, []string{}
			if tt.flag != "" {
				args = append(args, tt.flag)
			}
			if tt.env != "" {
				environ = append(environ, tt.env)
			}
			if tt.file != "" {
				// The file itself is named by the environment here.
				environ = append(environ, "LICTOR_CONFIG_FILE="+write(t, "c.hcl", tt.file))
			}
			c, err := Load(args, environ)
			if err != nil {
				t.Fatal(err)
			}
			if c.VIPPort != tt.want {
				t.Errorf("vip port %d, want %d", c.VIPPort, tt.want)
			}
		})
	}
}

func TestFlagErrors(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string // each must be in the message
	}{
		"unknown flag":         {[]string{"--vip-prt=1"}, []string{"--vip-prt", "--help"}},
		"argument":             {[]string{required, "x"}, []string{`"x"`, "flags only"}},
		"no addresses":         {nil, []string{"--consul-addresses is not set"}},
		"empty addresses":      {[]string{"--consul-addresses="}, []string{"--consul-addresses: an address is empty"}},
		"address with no port": {[]string{"--consul-addresses=a:http"}, []string{`"a:http"`, "is not a port"}},
		"name that is none":    {[]string{"--consul-addresses=a b:8500"}, []string{`"a b:8500" is neither`}},
		"v6 with port 0":       {[]string{"--consul-addresses=[::1]:0"}, []string{"from 1 to 65535"}},
		"no command":           {[]string{"--consul-addresses=exec= "}, []string{"nothing after exec="}},
		"command in a list":    {[]string{"--consul-addresses=a,exec=b"}, []string{"stands alone"}},
		"half an address":      {[]string{"--consul-addresses=10.0.0"}, []string{"not an IP address"}},
		"wildcard address":     {[]string{"--consul-addresses=0.0.0.0"}, []string{"no server's address"}},
		"bad port":             {[]string{required, "--vip-port=65536"}, []string{`--vip-port: "65536" is not a port`}},
		"port zero":            {[]string{required, "--vip-port=0"}, []string{"from 1 to 65535"}},
		"relative path":        {[]string{required, "--state-dir=x"}, []string{"--state-dir", "absolute"}},
		"no state dir":         {[]string{required, "--state-dir="}, []string{"--state-dir: is empty"}},
		"long socket":          {[]string{required, "--socket=/" + strings.Repeat("x", 107)}, []string{"108 bytes", "107"}},
		"bad listen":           {[]string{required, "--http-addr=9760"}, []string{"HOST:PORT"}},
		"bad level":            {[]string{required, "--log-level=loud"}, []string{"debug, info, warn or error"}},
		"bad switch":           {[]string{required, "--tls-disabled=perhaps"}, []string{"neither true nor false"}},
		"bad node":             {[]string{required, "--node-name=a/b"}, []string{"--node-name"}},
		"not a CIDR":           {[]string{required, "--vip-cidr=239.77.0.0"}, []string{"not a CIDR", "239.77.0.0/16"}},
		"host bits":            {[]string{required, "--vip-cidr=239.77.0.1/16"}, []string{"is 239.77.0.0/16 meant"}},
		"families mixed up":    {[]string{required, "--vip-cidr=ff05::/96"}, []string{"not IPv4", "--vip-cidr6"}},
		"families mixed up 6":  {[]string{required, "--vip-cidr6=239.77.0.0/16"}, []string{"not IPv6", "--vip-cidr"}},
		"v4-mapped":            {[]string{required, "--vip-cidr6=::ffff:239.77.0.0/112"}, []string{"IPv6 clothes"}},
		"whole Internet":       {[]string{required, "--vip-cidr=224.0.0.0/4"}, []string{"widest pool is a /8"}},
		"no room":              {[]string{required, "--vip-cidr=239.77.0.0/31"}, []string{"narrowest pool is a /30"}},
		"no VIPs at all":       {[]string{required, "--vip-cidr=", "--vip-cidr6="}, []string{"both off"}},
		"cert without key":     {[]string{required, "--tls-cert=/c"}, []string{"--tls-cert and --tls-key"}},
		"TLS both ways":        {[]string{required, "--tls-disabled", "--ca-certs=/c"}, []string{"--ca-certs means nothing with --tls-disabled"}},
		"address with a zone":  {[]string{"--consul-addresses=fe80::1%eth0"}, []string{"no server's address"}},
		"multicast address":    {[]string{"--consul-addresses=[239.77.0.5]:8500"}, []string{"no server's address"}},
		"all at once":          {[]string{"--vip-port=x", "--http-addr=y"}, []string{"--vip-port", "--http-addr"}},
		"no such file":         {[]string{required, "--config-file=/does/not/exist.hcl"}, []string{"--config-file", "no such file"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tt.args, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	tests := map[string]struct {
		environ []string
		want    string // in the error; "" for none
	}{
		"unknown key":             {[]string{"LICTOR_VIP_PRT=1"}, "LICTOR_VIP_PRT"},
		"misspelt port":           {[]string{"LICTOR_CONSUL_PORT=8500"}, "LICTOR_CONSUL_PORT"},
		"bad value":               {[]string{"LICTOR_VIP_PORT=x"}, `LICTOR_VIP_PORT: "x" is not a port`},
		"set but empty":           {[]string{"LICTOR_STATE_DIR="}, "LICTOR_STATE_DIR: is empty"},
		"somebody else's":         {[]string{"LICTORIAN=1", "lictor_vip_port=x"}, ""},
		"a service called lictor": {[]string{"LICTOR_SERVICE_HOST=10.0.0.1", "LICTOR_SERVICE_PORT_HTTP=80", "LICTOR_PORT=tcp://10.0.0.1:80", "LICTOR_PORT_80_TCP_PORT=80", "LICTOR_PORT_80_TCP=tcp://10.0.0.1:80"}, ""},
		"and lictor-metrics":      {[]string{"LICTOR_METRICS_PORT=tcp://10.0.0.1:80"}, ""},
		"twice, the first counts": {[]string{"LICTOR_VIP_PORT=1", "LICTOR_VIP_PORT=x"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]string{required}, tt.environ)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, want := range map[string]error{"--help": ErrHelp, "-h": ErrHelp, "--version": ErrVersion} {
		if _, err := Load([]string{arg}, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", arg, err, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string
	}{
		"usual":             {[]string{"--tls-disabled"}, nil},
		"TLS on 8500":       {nil, []string{"8501"}},
		"TLS on 8500 meant": {[]string{"--consul-http-port=8500"}, nil},
		"unicast":           {[]string{"--tls-disabled", "--vip-cidr=10.77.0.0/16"}, []string{"--vip-cidr 10.77.0.0/16 is not multicast"}},
		"loopback":          {[]string{"--tls-disabled", "--vip-cidr=127.77.0.0/16"}, []string{"handed the proxy's token"}},
		"unicast IPv6":      {[]string{"--tls-disabled", "--vip-cidr6=fd00::/64"}, []string{"--vip-cidr6 fd00::/64 is not multicast"}},
		"all of multicast":  {[]string{"--tls-disabled", "--vip-cidr=239.0.0.0/8"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Load(append(tt.args, required), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Warnings) != len(tt.want) {
				t.Fatalf("warnings %q", c.Warnings)
			}
			for i, want := range tt.want {
				if !strings.Contains(c.Warnings[i], want) {
					t.Errorf("warning %q does not say %q", c.Warnings[i], want)
				}
			}
		})
	}
}

func TestUsageNamesEveryOption(t *testing.T) {
	usage := Usage()
	for _, o := range options {
		if !strings.Contains(usage, "--"+o.name) || o.def != "" && !o.isSwitch() && !strings.Contains(usage, "default "+o.def) {
			t.Errorf("--%s or its default is not in the help", o.name)
		}
		if o.def == "" && o.shows == "" {
			t.Errorf("--%s does not say what holds without it", o.name)
		}
	}
	for line := range strings.SplitSeq(usage, "\n") {
		if len(line) > usageWidth {
			t.Errorf("line of %d columns: %s", len(line), line)
		}
	}
}
