package main

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// eventData is what any event of the journal may say, by its names there.
type eventData struct {
	ID     string   `json:"id"`
	By     string   `json:"by"`
	Reason string   `json:"reason"`
	Ranked []string `json:"ranked"`
	Server *struct {
		ID    string `json:"id"`
		Addr4 string `json:"addr4"`
		Addr6 string `json:"addr6"`
		Port  uint16 `json:"port"`
	} `json:"server"`
	Proxy *struct {
		ID   string `json:"id"`
		Node string `json:"node"`
		VIP  string `json:"vip"`
		VIP6 string `json:"vip6"`
	} `json:"proxy"`
	Owner *struct {
		Kind string `json:"kind"`
		Path string `json:"path"`
	} `json:"owner"`
	Known      *bool             `json:"known"`
	Envoy      *v1.EnvoySettings `json:"envoy"`
	Credential *struct {
		Type string `json:"type"`
	} `json:"credential"`
	Process *struct {
		PID int `json:"pid"`
	} `json:"process"`
	Accessor   string `json:"accessor"`
	AuthMethod string `json:"auth_method"`
	State      string `json:"state"`
	Problem    string `json:"problem"`
}

// eventText says in a few words what an event says. One of a kind that this
// version does not know is shown as it is.
func eventText(event v1.JournalEvent) string {
	var d eventData
	if err := json.Unmarshal(event.Data, &d); err != nil {
		return string(event.Data)
	}
	switch {
	case d.Server != nil:
		return fmt.Sprintf("%s at %s port %d", d.Server.ID, words(d.Server.Addr4, d.Server.Addr6), d.Server.Port)
	case d.Proxy != nil:
		return fmt.Sprintf("%s of node %s: VIP %s", d.Proxy.ID, d.Proxy.Node, words(d.Proxy.VIP, d.Proxy.VIP6))
	case event.Kind == "Placed" && len(d.Ranked) == 0:
		return fmt.Sprintf("%s: no server (%s)", d.ID, d.Reason)
	case event.Kind == "Placed":
		return fmt.Sprintf("%s: %s (%s)", d.ID, strings.Join(d.Ranked, ", "), d.Reason)
	case event.Kind == "ProxyChanged":
		return d.changes(event)
	case event.Kind == "LoggedIn":
		return fmt.Sprintf("%s: token %s by auth method %s", d.ID, d.Accessor, d.AuthMethod)
	case event.Kind == "LoggedOut":
		return fmt.Sprintf("%s: token %s deleted", d.ID, d.Accessor)
	case event.Kind == "CredentialChanged":
		return join(d.ID+": "+d.State, d.Problem)
	case d.By != "":
		return fmt.Sprintf("%s by %s", d.ID, d.By)
	case d.Reason != "":
		return fmt.Sprintf("%s (%s)", d.ID, d.Reason)
	case d.ID != "":
		return d.ID
	}
	return string(event.Data)
}

// changes says what of a proxy is another one now.
func (d eventData) changes(event v1.JournalEvent) string {
	var parts []string
	add := func(format string, values ...any) { parts = append(parts, fmt.Sprintf(format, values...)) }
	if d.Owner != nil {
		add("owner is %s", words(d.Owner.Kind, d.Owner.Path))
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
