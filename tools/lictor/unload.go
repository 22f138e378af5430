package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel"
)

// defaultBPFFS is lictord's.
const defaultBPFFS = "/sys/fs/bpf/lictor"

// bpffs is where lictord leaves its pins unless a flag says otherwise.
func (a *app) bpffs() string { return cmp.Or(a.getenv("LICTOR_BPFFS"), defaultBPFFS) }

func (a *app) unloadCommand() *cobra.Command {
	var bpffs string
	c := a.command("unload", "remove Lictor's hook from the kernel",
		`Detaches and unpins all programs and maps of Lictor's, and nothing else. From then on every
connect to a VIP fails (ENETUNREACH); connections that are up stay up; their counts are
gone. The journal stays: when lictord starts again, all VIPs are as they were.

It refuses while lictord runs, which would put the hook back: stop lictord first.`,
		func(_ context.Context, _ []string) error {
			kind, err := fileSystem(bpffs)
			present := err == nil && kind == unix.BPF_FS_MAGIC && pinned(bpffs)
			err = a.unload(bpffs)
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
			if !present {
				a.printf("nothing of Lictor's was at %s; if lictord runs with another --bpffs, give the same here\n", clean(bpffs))
				return nil
			}
			a.printf("unloaded: nothing of Lictor's is left at %s; connects to VIPs fail until lictord runs again\n", clean(bpffs))
			return nil
		})
	c.Flags().StringVar(&bpffs, "bpffs", a.bpffs(), "directory of lictord's pins")
	return c
}
