package config

import (
	"strings"
)

const (
	usageHead = `lictord gives every Envoy of this host an address of its own (its VIP) for "my
Consul server", and has the kernel put the server that it chose in its place.

Usage: lictord --consul-addresses LIST [flags]

Each flag can also be set in the environment (--vip-port is LICTOR_VIP_PORT) and
in the config file (vip_port). A flag wins over the environment, the environment
over the file, the file over the default.
`
	usageTail = `  -h, --help
      show this text
  --version
      show the version

Stopped by SIGTERM or SIGINT, lictord leaves the data path in place: connections
to VIPs go on being redirected. "lictor unload" removes it.

Exit status: 0 after a signal, 1 when it could not go on, 2 for a wrong flag,
variable or config file.
`
	usageWidth = 80
)

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString(usageHead)
	for _, o := range options {
		if o.group != "" {
			b.WriteString("\n" + o.group + ":\n")
		}
		b.WriteString("  --" + o.name)
		if !o.isSwitch() {
			b.WriteString(" " + o.value)
		}
		switch {
		case o.isSwitch():
		case o.def != "":
			b.WriteString(" (default " + o.def + ")")
		default:
			b.WriteString(" (" + o.shows + ")")
		}
		b.WriteByte('\n')
		wrap(&b, "      ", o.help)
	}
	b.WriteString(usageTail)
	return b.String()
}

// wrap writes text in lines of at most usageWidth columns.
func wrap(b *strings.Builder, indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+len(word)+1 > usageWidth {
			b.WriteString(line + "\n")
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}
