package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) registerCommand() *cobra.Command {
	var req v1.RegisterRequest
	var anybody bool
	var flags *pflag.FlagSet
	c := a.command("register ID", "give a proxy its VIP",
		`Registers a proxy under the id that it has in Consul and prints its VIP. Registering it
again answers the same VIP.

Who may use the VIP is, unless a flag says otherwise, the network namespace that this
command runs in: run it with "ip netns exec", or give --netns or --cgroup as root.`,
		func(ctx context.Context, args []string) error {
			owners := 0
			for name, value := range map[string]string{"netns": req.Netns, "cgroup": req.Cgroup} {
				if !flags.Changed(name) {
					continue
				}
				if value == "" { // of a variable that is not set; the caller's own namespace is not meant
					return usageError{fmt.Errorf("--%s is empty; give a path, or leave it out for the namespace that lictor runs in", name)}
				}
				owners++
			}
			if anybody {
				owners++
			}
			if owners > 1 {
				return usageError{errors.New("--netns, --cgroup and --any exclude each other; give at most one")}
			}
			if anybody {
				req.Owner = v1.OwnerAny
			}
			for _, path := range []*string{&req.Netns, &req.Cgroup} {
				// The daemon runs elsewhere: a relative path means something here only.
				if *path == "" {
					continue
				}
				absolute, err := filepath.Abs(*path)
				if err != nil {
					return err
				}
				*path = absolute
			}
			if err := checkID("proxy id", args[0]); err != nil {
				return err
			}
			if err := req.Check(); err != nil {
				return usageError{err}
			}
			got, err := ask(a, func(c *v1.Client) (v1.Registered, error) { return c.Register(ctx, args[0], req) })
			if err != nil {
				return err
			}
			return a.showRegistered(got)
		})
	c.ValidArgsFunction = a.completeProxies
	flags = c.Flags()
	flags.StringVar(&req.NodeName, "node-name", "", "node that Consul lists the proxy on (default: lictord's own)")
	flags.StringVar(&req.Namespace, "namespace", "", "Consul namespace of the proxy")
	flags.StringVar(&req.Partition, "partition", "", "Consul partition of the proxy")
	flags.StringVar(&req.Netns, "netns", "", "network namespace that may use the VIP, a path such as /run/netns/pod")
	flags.StringVar(&req.Cgroup, "cgroup", "", "cgroup-v2 directory whose processes may use the VIP")
	flags.BoolVar(&anybody, "any", false, "let every process of the host use the VIP")
	for _, name := range []string{"node-name", "namespace", "partition"} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

func (a *app) showRegistered(got v1.Registered) error {
	if a.json {
		return a.writeJSON(got)
	}
	port := strconv.Itoa(int(got.Port))
	for _, vip := range []string{got.VIP, got.VIP6} {
		if vip != "" {
			a.printf("VIP     %s\n", clean(net.JoinHostPort(vip, port)))
		}
	}
	if got.Server == nil {
		a.printf("server  none is known yet; connects are refused until one is\n")
		return nil
	}
	a.printf("server  %s at %s\n", clean(got.Server.ID), serverAddress(*got.Server))
	return nil
}

func serverAddress(s v1.ServerRef) string {
	return net.JoinHostPort(s.Address.String(), strconv.Itoa(int(s.GRPCPort)))
}

func (a *app) deregisterCommand() *cobra.Command {
	c := a.command("deregister ID", "end a proxy's registration",
		`Ends a proxy's registration: when it returns, connects to the VIP are refused. Running
connections go on. It is a success when there is no such proxy.`,
		func(ctx context.Context, args []string) error {
			if err := checkID("proxy id", args[0]); err != nil {
				return err
			}
			_, err := ask(a, func(c *v1.Client) (struct{}, error) { return struct{}{}, c.Deregister(ctx, args[0]) })
			return err
		})
	c.ValidArgsFunction = a.completeProxies
	return c
}

func (a *app) proxiesCommand() *cobra.Command {
	return a.command("proxies", "list the proxies, their VIPs, servers and connections",
		`SERVER is where the next connection of a proxy goes, NEXT what comes when it fails. A
connection that is up stays on the server that it has, unless that is drained or gone:
"lictor servers" counts those. ACTIVE, TOTAL, FAILED and BOUNCED are the proxy's own
connections; bounced are those that a server ended at once, as when it is full. Columns that
would be empty are left out.`,
		func(ctx context.Context, _ []string) error {
			proxies, err := ask(a, func(c *v1.Client) ([]v1.Proxy, error) { return c.Proxies(ctx) })
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(v1.Proxies{Proxies: proxies})
			}
			a.showProxies(proxies)
			return nil
		})
}

func (a *app) showProxies(proxies []v1.Proxy) {
	if len(proxies) == 0 {
		if !a.asRoot {
			a.printf("no proxies of this network namespace are registered; root sees those of all\n")
			return
		}
		a.printf("no proxies are registered; lictor register ID adds one\n")
		return
	}
	t := table{heads: []string{"PROXY", "NODE", "NAMESPACE", "PARTITION", "VIP", "VIP6", "PORT", "OWNER", "STATE",
		"SERVER", "NEXT", "HELD DOWN", "ACTIVE", "TOTAL", "FAILED", "BOUNCED", "REASON", "PLACED",
		"CREDENTIAL", "PID", "AGE"}}
	for _, p := range proxies {
		first, next := "", ""
		if len(p.Servers) > 0 {
			first, next = p.Servers[0].ID, serverIDs(p.Servers[1:])
		}
		t.add(p.ProxyID, p.NodeName, p.Namespace, p.Partition, p.VIP, p.VIP6, p.Port, ownerText(p.Owner), p.State,
			first, next, strings.Join(p.HeldDown, ","), p.Active, p.Total, p.Failed, p.Bounced,
			p.Reason, a.age(p.PlacedAt), credentialText(p), processText(p.Process), a.age(p.Registered))
	}
	t.print(a.stdout)
}

// credentialText says how a proxy stands with its credential: "login ok".
func credentialText(p v1.Proxy) string {
	if p.CredentialType == "" {
		return string(p.CredentialState) // trouble with TLS needs no credential
	}
	return string(p.CredentialType) + " " + cmp.Or(string(p.CredentialState), "not tried yet")
}

// processText is a pid, and what is with it when it does not simply run.
func processText(p *v1.Process) string {
	switch {
	case p == nil:
		return ""
	case !p.Alive:
		return fmt.Sprintf("%d gone", p.PID)
	case p.Phase != "":
		return fmt.Sprintf("%d %s", p.PID, p.Phase)
	}
	return strconv.Itoa(p.PID)
}

func serverIDs(servers []v1.ServerRef) string {
	ids := make([]string, len(servers))
	for i, server := range servers {
		ids[i] = server.ID
	}
	return strings.Join(ids, ",")
}

// ownerText says who may use a VIP: "netns /run/netns/pod", "any".
func ownerText(o v1.Owner) string {
	text := o.Kind
	switch {
	case o.Path != "":
		text += " " + o.Path
	case o.ID != 0:
		text += fmt.Sprintf(" #%d", o.ID)
	}
	return text
}

func (a *app) bootstrapCommand() *cobra.Command {
	var out string
	var wait bool
	c := a.command("bootstrap ID", "write the Envoy bootstrap of a proxy",
		`Writes the bootstrap document with which Envoy finds its VIP: envoy -c FILE. A file is
written beside and renamed, readable by its owner only.`,
		func(ctx context.Context, args []string) error {
			if err := checkID("proxy id", args[0]); err != nil {
				return err
			}
			get := func() ([]byte, error) { return a.askBootstrap(ctx, args[0]) }
			if wait {
				get = func() ([]byte, error) { return a.waitForBootstrap(ctx, args[0]) }
			}
			document, err := get()
			if err != nil {
				return err
			}
			if out == "" {
				_, err := a.stdout.Write(document)
				return err
			}
			return writeFile(out, document)
		})
	c.Flags().StringVarP(&out, "output", "o", "", "write to this file instead of stdout")
	c.Flags().BoolVar(&wait, "wait", false, "wait until lictord answers and Consul knows the proxy")
	c.ValidArgsFunction = a.completeProxies
	return c
}
