package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// completeTimeout is how long somebody who pressed the tab key waits.
const completeTimeout = time.Second

// bashWords is what the script for bash needs where nothing else brings it.
//
//go:embed completion.bash
var bashWords string

// completion scripts by the name of the shell.
var shells = []string{"bash", "zsh", "fish"}

func (a *app) completionCommand() *cobra.Command {
	c := a.command("completion SHELL", "write a completion script for bash, zsh or fish",
		`Writes a script that makes the shell complete commands, flags, and the ids of proxies and
servers, which it asks the daemon for.

  bash  source <(lictor completion bash)       or into /etc/bash_completion.d/lictor
  zsh   lictor completion zsh > "${fpath[1]}/_lictor"
  fish  lictor completion fish > ~/.config/fish/completions/lictor.fish`, nil)
	c.ValidArgsFunction = nil
	c.ValidArgs = shells
	c.RunE = func(c *cobra.Command, args []string) error {
		a.started = true
		switch args[0] {
		case "bash":
			if err := c.Root().GenBashCompletionV2(a.stdout, true); err != nil {
				return err
			}
			_, err := io.WriteString(a.stdout, bashWords)
			return err
		case "zsh":
			return c.Root().GenZshCompletion(a.stdout)
		case "fish":
			return c.Root().GenFishCompletion(a.stdout, true)
		}
		return usageError{fmt.Errorf("there is no completion for %q; known are %s", args[0], strings.Join(shells, ", "))}
	}
	return c
}

// completeProxies offers the ids of the proxies.
func (a *app) completeProxies(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(c.Context(), args, func(ctx context.Context, client *v1.Client) (offers []string, err error) {
		proxies, err := client.Proxies(ctx)
		for _, p := range proxies {
			offers = append(offers, cobra.CompletionWithDesc(p.ProxyID, clean(string(p.State))))
		}
		return offers, err
	})
}

// completeServers offers the ids of the servers.
func (a *app) completeServers(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(c.Context(), args, func(ctx context.Context, client *v1.Client) (offers []string, err error) {
		servers, err := client.Servers(ctx)
		for _, s := range servers {
			offers = append(offers, cobra.CompletionWithDesc(s.ID, serverState(s)))
		}
		return offers, err
	})
}

// complete offers what list finds for the first argument. Without a daemon
// there is nothing to offer, and nothing to complain about to a prompt.
func (a *app) complete(ctx context.Context, args []string, list func(context.Context, *v1.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	client := a.client() // by itself: progress would be written into the prompt
	defer client.Close()
	offers, err := list(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return offers, cobra.ShellCompDirectiveNoFileComp // the shell takes those that fit
}
