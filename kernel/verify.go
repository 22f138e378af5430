package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf/link"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
)

// Attachment is the hook as it was found to be in effect.
type Attachment struct {
	Cgroup   string // directory
	CgroupID uint64
	Probe    string // the VIPs to which connects arrived: "239.77.0.0:1, [ff05::7777:0:0]:1"
	// Inside says why the probe could not connect from outside our own cgroup: what
	// it proved is then of this daemon's cgroup alone. "": it did.
	Inside string
}

// ErrNotAttached is returned by Verify when the hook is not in effect.
var ErrNotAttached = errors.New("the hook is not in effect")

// ErrPinGone is returned by Verify, beside ErrNotAttached, when a link's pin was
// removed, and the link with it. Attach makes it anew.
var ErrPinGone = errors.New("its pin is gone")

// Verify finds out whether the hook is in effect: every link leads from the
// configured cgroup to our program, and a connect from a process outside our
// own cgroup arrives where the map sends it. The error wraps ErrNotAttached and
// says what is not so. It takes some ten milliseconds and starts a process.
func (k *Kernel) Verify(ctx context.Context) (Attachment, error) {
	a := Attachment{Cgroup: k.cfg.Cgroup}
	id, err := cgroup.ID(k.cfg.Cgroup)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrNotAttached, err)
	}
	a.CgroupID = id
	if k.wantRoot && id != cgroup.HostRootID {
		return a, fmt.Errorf("%w for the whole host: %s is the root of a container's view of the cgroup hierarchy (id %d); run in the host's cgroup namespace, or give the cgroup that is meant",
			ErrNotAttached, k.cfg.Cgroup, id)
	}
	for _, h := range hooks {
		if err := k.verifyHook(h, id); err != nil {
			return a, fmt.Errorf("%w: %s: %w", ErrNotAttached, h.name, err)
		}
	}
	a.Probe, a.Inside, err = k.probeConnect(ctx)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrNotAttached, err)
	}
	return a, nil
}

func (k *Kernel) verifyHook(h hook, cgroupID uint64) (err error) {
	l, err := link.LoadPinnedLink(k.pins.linkPath(h.name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return ErrPinGone
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return err
	}
	mine, err := h.prog(&k.objs.lictorPrograms).Info()
	if err != nil {
		return err
	}
	id, _ := mine.ID()
	at := info.Cgroup()
	switch {
	case info.Program != id:
		return fmt.Errorf("the link leads to %s instead of program %d", describe(info.Program), id)
	case at == nil || at.CgroupId == 0:
		return errors.New("its cgroup was removed")
	case at.CgroupId != cgroupID:
		return fmt.Errorf("it is attached to cgroup id %d, and %s has id %d", at.CgroupId, k.cfg.Cgroup, cgroupID)
	}
	return nil
}
