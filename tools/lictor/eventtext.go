package main

import (
	"fmt"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// eventData is what any event of the journal may say, by its names there.
type eventData struct {
	ID     string    `json:"id"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Ranked []string  `json:"ranked"`
	At     time.Time `json:"at"`
	Server *struct {
		ID      string `json:"id"`
		Addr4   string `json:"addr4"`
		Addr6   string `json:"addr6"`
		Port    uint16 `json:"port"`
		Version string `json:"version"`
	} `json:"server"`
	Proxy *struct {
		ID         string          `json:"id"`
		Node       string          `json:"node"`
		VIP        string          `json:"vip"`
		VIP6       string          `json:"vip6"`
		Owner      ownerData       `json:"owner"`
		Credential *credentialData `json:"credential"`
		Process    *processData    `json:"process"`
	} `json:"proxy"`
	Owner      *ownerData        `json:"owner"`
	Known      *bool             `json:"known"`
	Envoy      *v1.EnvoySettings `json:"envoy"`
	Credential *credentialData   `json:"credential"`
	Process    *processData      `json:"process"`
	Accessor   string            `json:"accessor"`
	AuthMethod string            `json:"auth_method"`
	Expires    time.Time         `json:"expires"`
	State      string            `json:"state"`
	Problem    string            `json:"problem"`
}

type ownerData struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
}

type credentialData struct {
	Type string `json:"type"`
}

type processData struct {
	PID int `json:"pid"`
}

// drainer says who drained, and for whom: "uid 0" and "", or "uid 0 on host-1" and
// " for the whole fleet".
func drainer(by string) (who, scope string) {
	if who, ok := strings.CutPrefix(by, "fleet: "); ok {
		return who, " for the whole fleet"
	}
	if by == "" {
		return "somebody", ""
	}
	return by, ""
}

func (d eventData) address() string {
	text := fmt.Sprintf("%s port %d", words(d.Server.Addr4, d.Server.Addr6), d.Server.Port)
	if d.Server.Version != "" {
		text += ", Consul " + d.Server.Version
	}
	return text
}

func (d eventData) registered() string {
	if d.Proxy == nil {
		return d.ID
	}
	text := fmt.Sprintf("%s of node %s: VIP %s", d.Proxy.ID, d.Proxy.Node, words(d.Proxy.VIP, d.Proxy.VIP6))
	if owner := words(d.Proxy.Owner.Kind, d.Proxy.Owner.Path); owner != "" {
		text += ", for " + owner
	}
	if d.Proxy.Process != nil && d.Proxy.Process.PID != 0 {
		text += fmt.Sprintf(", process %d", d.Proxy.Process.PID)
	}
	if d.Proxy.Credential != nil && d.Proxy.Credential.Type != "" {
		text += ", token by " + d.Proxy.Credential.Type
	}
	return text
}

// leaveWords says why a registration ended.
func leaveWords(reason string) string {
	switch reason {
	case "operator":
		return "it was deregistered"
	case "catalog-gone":
		return "Consul knew it and no longer does"
	case "owner-gone":
		return "its network namespace or cgroup is gone from the host"
	case "process-gone":
		return "its process ended, and no other took its place in time"
	}
	return reason
}

// credentialWords tells the events of tokens.
func (d eventData) credentialWords(a *app, event v1.JournalEvent) string {
	switch event.Kind {
	case "LoggedIn":
		text := fmt.Sprintf("%s logged in by auth method %s: token %s", d.ID, d.AuthMethod, d.Accessor)
		if !d.Expires.IsZero() {
			text += ", expires " + a.clock(d.Expires)
		}
		return text
	case "LoggedOut":
		return fmt.Sprintf("%s logged out: token %s is deleted in Consul", d.ID, d.Accessor)
	case "CredentialChanged":
		return join(d.ID+"'s credential: "+credentialState(d.State), d.Problem)
	}
	return string(event.Data)
}

// credentialState says how a proxy stands with its credential.
func credentialState(state string) string {
	text, ok := map[string]string{
		"ok":           "Consul takes it",
		"":             "not known yet",
		"refused":      "refused by Consul",
		"login-failed": "the login failed",
		"bad-bearer":   "the bearer token is not valid",
		"expired":      "expired, and not renewed",
		"unreadable":   "a file of it cannot be read",
		"wrong-ca":     "Consul's certificate is of another CA",
		"wrong-name":   "Consul's certificate has another name",
		"no-tls":       "Consul's port speaks no TLS",
		"tls-refused":  "Consul refuses the client certificate",
	}[state]
	if !ok {
		return state
	}
	return text
}

// changes says what of a proxy is another one now.
func (d eventData) changes(event v1.JournalEvent) string {
	var parts []string
	add := func(format string, values ...any) { parts = append(parts, fmt.Sprintf(format, values...)) }
	if d.Owner != nil {
		add("its owner is %s", words(d.Owner.Kind, d.Owner.Path))
	}
	if d.Known != nil && *d.Known {
		add("Consul knows it")
	}
	if d.Process != nil {
		if d.Process.PID == 0 {
			add("its process is not watched any more")
		} else {
			add("it is process %d", d.Process.PID)
		}
	}
	if d.Credential != nil {
		if d.Credential.Type == "" {
			add("no credential")
		} else {
			add("another credential, %s", d.Credential.Type)
		}
	}
	if d.Envoy != nil {
		add("other settings of Envoy")
	}
	if parts == nil {
		return string(event.Data)
	}
	return d.ID + ": " + strings.Join(parts, "; ")
}

// words joins what is not empty.
func words(all ...string) string { return strings.Join(strings.Fields(strings.Join(all, " ")), " ") }
