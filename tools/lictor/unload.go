package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lictor-mesh/lictor/kernel"
)

// defaultBPFFS is lictord's.
const defaultBPFFS = "/sys/fs/bpf/lictor"

func (a *app) unloadCommand() *cobra.Command {
	var bpffs string
	c := a.command("unload", "remove Lictor's hook from the kernel",
		`Detaches and unpins all programs and maps of Lictor's, and nothing else. From then on every
connect to a VIP fails (ENETUNREACH); connections that are up stay up; their counts are
gone. The journal stays: when lictord starts again, all VIPs are as they were.

It refuses while lictord runs, which would put the hook back: stop lictord first.`,
		func(_ context.Context, _ []string) error {
			err := a.unload(bpffs)
			if errors.Is(err, kernel.ErrLocked) {
				return fmt.Errorf("lictord runs on %s and would put the hook back; stop it, and run lictor unload again", bpffs)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(struct {
					Unloaded string `json:"unloaded"`
				}{bpffs})
			}
			a.printf("unloaded: nothing of Lictor's is left at %s; connects to VIPs fail until lictord runs again\n", clean(bpffs))
			return nil
		})
	c.Flags().StringVar(&bpffs, "bpffs", cmp.Or(a.getenv("LICTOR_BPFFS"), defaultBPFFS), "directory of lictord's pins")
	return c
}
