package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

func enter() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "exec NODE [-- COMMAND...]",
		Short: "Run a command, a shell by default, in a node's network namespace and cgroup",
		Example: `  testbed exec consul-1 -- consul members
  testbed exec web-1 -- curl -s 127.0.0.1:5000
  testbed exec web-1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			node, err := findNode(id, args[0])
			if err != nil {
				return err
			}
			command := args[1:]
			if len(command) == 0 {
				command = []string{"/bin/sh"}
			}
			return become(node, command)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "testbed to look in; needed only when several have such a node")
	return cmd
}

func findNode(id, name string) (found bed.NodeDescription, err error) {
	runs, err := sandbox.List()
	if err != nil {
		return found, err
	}
	var hits, names []string // of runs, of nodes
	for _, run := range runs {
		d, err := bed.ReadDescription(run.ID)
		if err != nil || id != "" && run.ID != id {
			continue
		}
		for _, n := range d.Nodes {
			names = append(names, n.Name)
			if n.Name == name {
				found, hits = n, append(hits, "--id="+run.ID)
			}
		}
	}
	switch {
	case len(hits) == 1:
		return found, nil
	case len(hits) > 1:
		return found, fmt.Errorf("several testbeds have a node %q: choose one with %s", name, strings.Join(hits, " or "))
	case len(names) == 0 && id != "":
		return found, fmt.Errorf("find node %q: no testbed %q is up: see testbed status", name, id)
	case len(names) == 0:
		return found, fmt.Errorf("find node %q: no testbed is up: start one with testbed up", name)
	}
	return found, fmt.Errorf("no node %q: there are %s", name, strings.Join(names, ", "))
}

// become replaces this process by the command, once it is where the node is.
func become(n bed.NodeDescription, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.Cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter cgroup of %s: %w", n.Name, err)
	}
	runtime.LockOSThread() // execve keeps the namespace of the thread that calls it
	ns, err := sandbox.OpenNetns(n.Netns)
	if err != nil {
		return err
	}
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace of %s: %w", n.Name, err)
	}
	if err := unix.Exec(path, command, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}
