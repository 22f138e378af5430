package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
)

// hook is one place where a program is attached.
type hook struct {
	name   string // of its pin, after linkPrefix
	attach ebpf.AttachType
	prog   func(*lictorPrograms) *ebpf.Program
}

// hooks in the order of attaching. Whatever a redirect needs afterwards is there
// before redirects begin, or begin to be noted in another way: the programs of
// two versions may both be in effect for a moment.
var hooks = []hook{
	{"sockops", ebpf.AttachCGroupSockOps, func(p *lictorPrograms) *ebpf.Program { return p.LictorSockops }},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, func(p *lictorPrograms) *ebpf.Program { return p.LictorGetpeername4 }},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, func(p *lictorPrograms) *ebpf.Program { return p.LictorGetpeername6 }},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, func(p *lictorPrograms) *ebpf.Program { return p.LictorSendmsg4 }},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, func(p *lictorPrograms) *ebpf.Program { return p.LictorSendmsg6 }},
	{"connect4", ebpf.AttachCGroupInet4Connect, func(p *lictorPrograms) *ebpf.Program { return p.LictorConnect4 }},
	{"connect6", ebpf.AttachCGroupInet6Connect, func(p *lictorPrograms) *ebpf.Program { return p.LictorConnect6 }},
}

// Attach puts the programs of Open into effect, in place of those that were,
// without a moment in which a VIP is not redirected. It may be called again, to
// repair. ErrForeign is returned when another program or pin is in the way.
func (k *Kernel) Attach(ctx context.Context) error {
	id, err := cgroup.ID(k.cfg.Cgroup)
	if err != nil {
		return err
	}
	dir, err := os.Open(k.cfg.Cgroup)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer dir.Close()
	if err := k.repin(); err != nil {
		return err
	}
	ours, err := k.mapIDs()
	if err != nil {
		return err
	}
	if err := k.copyState(); err != nil {
		return err
	}
	for _, h := range hooks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := k.attachHook(h, dir, id, ours); err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", h.name, k.cfg.Cgroup, err)
		}
	}
	return k.retireFormer()
}

// attachHook makes the pinned link lead from the cgroup to our program.
func (k *Kernel) attachHook(h hook, dir *os.File, cgroupID uint64, ours []ebpf.MapID) (err error) {
	path, prog := k.pins.linkPath(h.name), h.prog(&k.objs.lictorPrograms)
	// Left by a crash between the two steps of a replacement.
	if err := os.Remove(path + newSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return k.attachNew(h, dir, path)
	}
	if err != nil {
		return fmt.Errorf("open pin %s: %w; if it is %w, remove it", path, err, ErrForeign)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	at, err := checkOurs(old, h, path, ours)
	if err != nil {
		return err
	}
	if at == cgroupID {
		err := old.Update(prog)
		if !errors.Is(err, unix.ENOLINK) {
			return err
		}
		// The cgroup went away between the two calls.
	}
	// Another cgroup is configured than before, or that one is gone. Both are in
	// effect for a moment; the second to run finds nothing left to redirect.
	k.log.Info("moving hook to another cgroup", "hook", h.name, "from_id", at, "to_id", cgroupID)
	if err := k.attachNew(h, dir, path+newSuffix); err != nil {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

func (k *Kernel) attachNew(h hook, dir *os.File, path string) error {
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(dir.Fd()), Program: h.prog(&k.objs.lictorPrograms), Attach: h.attach,
	})
	if errors.Is(err, unix.EPERM) {
		return explainEPERM(err, dir.Name(), h.attach)
	}
	if err != nil {
		return err
	}
	// The pin keeps the link; without it the hook ends with this descriptor.
	return errors.Join(l.Pin(path), l.Close())
}

// checkOurs refuses a link that is not of ours, and returns the id of its
// cgroup, which is 0 when that is gone.
func checkOurs(l link.Link, h hook, path string, ours []ebpf.MapID) (uint64, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for pin %s: %w", path, err)
	}
	at := info.Cgroup()
	if at == nil || ebpf.AttachType(at.AttachType) != h.attach {
		return 0, fmt.Errorf("pin %s is not a link of %s: %w; remove it", path, h.name, ErrForeign)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if errors.Is(err, unix.EPERM) {
		return at.CgroupId, nil // needs CAP_SYS_ADMIN; a pin of that name in a directory of mode 0700 must do
	}
	if err != nil {
		return 0, fmt.Errorf("ask for program %d of pin %s: %w", info.Program, path, err)
	}
	defer prog.Close()
	progInfo, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for program %d of pin %s: %w", info.Program, path, err)
	}
	uses, _ := progInfo.MapIDs()
	if !slices.ContainsFunc(uses, func(id ebpf.MapID) bool { return slices.Contains(ours, id) }) {
		return 0, fmt.Errorf("pin %s is of program %q (id %d), which uses none of the maps in %s: %w; remove it",
			path, progInfo.Name, info.Program, filepath.Dir(path), ErrForeign)
	}
	return at.CgroupId, nil
}

// maps are the open maps of this layout, by name.
func (k *Kernel) maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		lictorMapVips: k.objs.Vips, lictorMapVipState: k.objs.VipState, lictorMapInflight: k.objs.Inflight, lictorMapServerState: k.objs.ServerState,
		lictorMapServerCounters: k.objs.ServerCounters, lictorMapServerLatency: k.objs.ServerLatency,
		lictorMapReasons: k.objs.Reasons, lictorMapSocks: k.objs.Socks, lictorMapEvents: k.objs.Events,
		lictorMapMeta: k.objs.Meta,
	}
}

// mapIDs are those of every map of ours, of former layouts too.
func (k *Kernel) mapIDs() (ids []ebpf.MapID, err error) {
	add := func(m *ebpf.Map) {
		id, e := mapID(m)
		ids, err = append(ids, id), errors.Join(err, e)
	}
	for _, m := range k.maps() {
		add(m)
	}
	for _, maps := range k.former {
		for _, m := range maps {
			add(m.Map)
		}
	}
	return ids, err
}

// explainEPERM names the program that does not let others attach beside it:
// the kernel refuses below one, and on its own cgroup.
func explainEPERM(err error, dir string, attach ebpf.AttachType) error {
	for at := dir; ; at = filepath.Dir(at) {
		if _, cerr := cgroup.ID(at); cerr != nil {
			break
		}
		if names := attachedTo(at, attach); names != "" {
			return fmt.Errorf("%w: %s attached to %s, probably with flags that let nobody attach beside it, %w; its owner must attach it as a link or with BPF_F_ALLOW_MULTI",
				err, names, at, ErrForeign)
		}
	}
	return fmt.Errorf("%w; run as root or with CAP_BPF and CAP_NET_ADMIN", err)
}

// attachedTo names the programs attached to one cgroup.
func attachedTo(dir string, attach ebpf.AttachType) string {
	f, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: attach})
	if err != nil {
		return ""
	}
	var names []string
	for _, p := range res.Programs {
		names = append(names, describe(p.ID))
	}
	return strings.Join(names, ", ")
}

func describe(id ebpf.ProgramID) string {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	return fmt.Sprintf("program %q (id %d)", info.Name, id)
}
