// Package config is lictord's configuration: its flags, their counterparts in
// the environment (LICTOR_…) and in a file (HCL or JSON), checked and typed.
//
// A flag wins over the environment, the environment over the file, the file
// over the default. Whatever is not known is an error that names the key and,
// in a file, the line: a misspelt setting must not silently be a default.
package config

import (
	"log/slog"
	"net/netip"
)

// Config is what lictord was told, checked. Load makes it; the zero value is
// not ready to use. It is never changed after that and may be shared.
type Config struct {
	ConsulAddresses     string // as catalog.Config has it
	ConsulHTTPPort      uint16 // 0: not open, follow servers over gRPC
	ConsulGRPCPort      uint16 // 0: the catalog says it
	ConsulDNSPort       uint16
	ConsulTokenFile     string // "": no token
	ServerWatchDisabled bool   // use ConsulAddresses as they are, do not ask the catalog
	TLS                 TLS

	Cgroup   string // cgroup-v2 directory; "": the root of the cgroup2 mount
	BPFFS    string
	StateDir string

	Socket   string
	HTTPAddr string // host:port; "": do not listen

	VIPCIDR  netip.Prefix // IPv4, masked; zero: no IPv4 VIPs
	VIPCIDR6 netip.Prefix // IPv6, masked; zero: no IPv6 VIPs
	VIPPort  uint16

	NodeName string // never empty: the host's name unless set
	LogLevel slog.Level
	LogJSON  bool

	// Warnings are sentences about settings that are accepted but cost
	// something. The caller logs them once.
	Warnings []string
}

// TLS says how to speak to Consul's servers.
type TLS struct {
	Disabled   bool   // plain text
	CACerts    string // file or directory of PEM certificates; "": the system's roots
	Cert, Key  string // client certificate and its key, both or neither
	ServerName string // expected in the server's certificate; "": the address dialed
}
