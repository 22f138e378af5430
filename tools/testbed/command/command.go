// Package command is the testbed's command line.
package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// New returns the root command. Its output goes where cobra's does: SetOut, SetErr.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "testbed",
		Short:         "A mesh of real Consul servers, hosts, pods and Envoys on this machine, to play with and to break",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(fetch())
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
