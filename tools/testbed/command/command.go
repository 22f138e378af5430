// Package command is the testbed's command line.
package command

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// New returns the root command. Its output goes where cobra's does: SetOut, SetErr.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:   "testbed",
		Short: "A mesh of real Consul servers, hosts, pods and Envoys on this machine, to play with and to break",
		Long: `A mesh of real Consul servers, hosts, pods and Envoys on this machine, each in
a network namespace and a cgroup of its own, to play with and to break.

  testbed up            build one; it stays until Ctrl-C or "testbed down"
  testbed status        what is up, and the address of each node
  testbed exec NODE -- COMMAND
                        run something where a server, host or pod is
  testbed down          take everything away, also what killed runs left

Nothing is reachable from outside, and nothing is left on the machine.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(up(), down(), status(), enter(), fetch())
	return root
}

func fetch() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch",
		Short: "Build Consul and fetch Envoy, unless they are on PATH or were made before",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			envoy, err := binaries.Envoy(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			consul, err := binaries.Consul(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "consul %s\nenvoy  %s\n", consul, envoy)
			return err
		},
	}
}

func down() *cobra.Command {
	return &cobra.Command{
		Use:   "down [ID]",
		Short: "End a running testbed, all of them without ID, and remove what killed ones left",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			runs, err := sandbox.List()
			if err != nil {
				return err
			}
			found := false
			for _, run := range runs {
				// Others, tests at work for one, are left alone unless they are named.
				if len(args) == 0 && !described(run.ID) || len(args) == 1 && args[0] != run.ID {
					continue
				}
				found = true
				if err := end(cmd, run); err != nil {
					return err
				}
			}
			if len(args) == 1 && !found {
				return fmt.Errorf("no testbed %q is up: see testbed status", args[0])
			}
			swept, err := sandbox.Sweep()
			for _, id := range swept {
				fmt.Fprintf(cmd.OutOrStdout(), "removed what %s left\n", id)
			}
			return err
		},
	}
}

func described(id string) bool {
	_, err := bed.ReadDescription(id)
	return err == nil
}

// end asks a run's process to clean up, and waits until the run is gone.
func end(cmd *cobra.Command, run sandbox.Info) error {
	if err := unix.Kill(run.PID, unix.SIGTERM); err != nil {
		return fmt.Errorf("end testbed %s (pid %d): %w", run.ID, run.PID, err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		runs, err := sandbox.List()
		if err != nil {
			return err
		}
		gone := true
		for _, other := range runs {
			gone = gone && other.ID != run.ID
		}
		if gone {
			fmt.Fprintf(cmd.OutOrStdout(), "ended %s\n", run.ID)
			return nil
		}
	}
	return fmt.Errorf("testbed %s (pid %d) does not end: kill -9 %d, then testbed down", run.ID, run.PID, run.PID)
}

func status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the running testbeds and their nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			runs, err := sandbox.List()
			if err != nil {
				return err
			}
			if len(runs) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "no testbed is up: start one with testbed up")
			}
			for _, run := range runs {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: pid %d, up for %s: %s\n",
					run.ID, run.PID, time.Since(run.Started).Round(time.Second), run.Command)
				d, err := bed.ReadDescription(run.ID)
				if err != nil {
					continue // of a test, which describes nothing
				}
				if err := table(cmd, d); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func table(cmd *cobra.Command, d bed.Description) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  NODE\tKIND\tADDRESS\tDIRECTORY")
	for _, n := range d.Nodes {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", n.Name, n.Kind, n.Addr, n.Dir)
	}
	return w.Flush()
}
