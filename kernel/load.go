package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
)

// Kernel is the hook of one host. Its methods may be called from several
// goroutines; Close after all others have returned.
type Kernel struct {
	version  version
	cfg      Config
	log      *slog.Logger
	pins     *pinDir
	objs     lictorObjects
	former   map[string][]formerMap // still counted, or to be copied
	gen      atomic.Uint32          // of the next entry written
	probe    sync.Mutex             // held by Verify, for the probe's entry
	wantRoot bool                   // no cgroup was given: the whole host is meant
}

// Open loads the programs against the maps pinned under cfg.BPFFS, which it
// adopts, migrates or makes. It attaches nothing: a hook that is in effect goes
// on as it was until Attach. It returns ErrLocked, ErrNewer or ErrForeign, with
// what was pinned left as it was.
func Open(ctx context.Context, cfg Config) (*Kernel, error) {
	// The newest thing that is required (5.14), and one that loading would not miss.
	if err := haveSocketCookie(); err != nil {
		return nil, fmt.Errorf("this kernel is too old, run Linux 5.15 or later: %w; lictor doctor tells more", err)
	}
	return thisVersion.open(ctx, cfg)
}

func (v version) open(ctx context.Context, cfg Config) (_ *Kernel, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	wantRoot := cfg.Cgroup == ""
	if wantRoot {
		if cfg.Cgroup, err = cgroup.Root(); err != nil {
			return nil, err
		}
	}
	// Attach would find it out too, but with maps pinned that nobody needs.
	if _, err := cgroup.ID(cfg.Cgroup); err != nil {
		return nil, fmt.Errorf("%w; give a directory of the cgroup2 mount, or none for the whole host", err)
	}
	k := &Kernel{version: v, cfg: cfg, log: cfg.Logger.With("component", "kernel"), former: map[string][]formerMap{}, wantRoot: wantRoot}
	// Another start than the last one's: an entry's generation must not come again soon.
	k.gen.Store(rand.Uint32())
	if k.pins, err = openPins(cfg.BPFFS, true); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	spec, err := k.spec()
	if err != nil {
		return nil, err
	}
	maps, err := k.openMaps(spec)
	if err != nil {
		return nil, err
	}
	defer closeMaps(maps) // the collection has duplicates
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := spec.LoadAndAssign(&k.objs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, explainLoad(err)
	}
	// Pins what is new. A crash before leaves nothing, one after it empty maps.
	return k, errors.Join(k.repin(), k.copyVIPs())
}

// Close closes descriptors and the lock. The hook and its maps stay.
func (k *Kernel) Close() error {
	err := k.objs.Close()
	for _, maps := range k.former {
		for _, m := range maps {
			err = errors.Join(err, m.Close())
		}
	}
	return errors.Join(err, k.pins.close())
}

// Now is the time on the kernel's clock, CLOCK_MONOTONIC.
func (k *Kernel) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // not possible on Linux
	}
	return time.Duration(ts.Nano())
}

// spec is the object file with this configuration as its constants.
func (k *Kernel) spec() (*ebpf.CollectionSpec, error) {
	spec, err := k.version.load()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	spec.Maps[lictorMapEvents].MaxEntries = k.cfg.RingBytes
	for name, value := range k.constants() {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return spec, nil
}

func (k *Kernel) constants() map[string]any {
	used4, net4, mask4 := poolWords(k.cfg.Pool4)
	used6, net6, mask6 := poolWords(k.cfg.Pool6)
	return map[string]any{
		lictorVarPool4Used: used4, lictorVarPool4Net: net4[3], lictorVarPool4Mask: mask4[3],
		lictorVarPool6Used: used6, lictorVarPool6Net: net6, lictorVarPool6Mask: mask6,
		lictorVarHasRetval:      boolByte(haveRetval() == nil),
		lictorVarHoldFailedNs:   uint64(k.cfg.HoldFailed),
		lictorVarHoldBouncedNs:  uint64(k.cfg.HoldBounced),
		lictorVarHoldRefusedNs:  uint64(k.cfg.HoldRefused),
		lictorVarBounceWindowNs: uint64(k.cfg.BounceWindow),
		lictorVarBounceBytes:    k.cfg.BounceBytes,
		lictorVarEagerNs:        uint64(k.cfg.Eager),
		lictorVarWakeBytes:      k.cfg.RingBytes / 16,
		lictorVarWaitMinMs:      uint32(k.cfg.WaitMin / time.Millisecond),
		lictorVarWaitMaxMs:      uint32(k.cfg.WaitMax / time.Millisecond),
	}
}

// poolWords gives a prefix as the words that in_pool4 and in_pool6 compare.
func poolWords(p netip.Prefix) (used uint8, net, mask [4]uint32) {
	if !p.IsValid() {
		return 0, net, mask
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var b [16]byte
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	for i := range mask {
		mask[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return 1, addrWords(p.Addr()), mask
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// haveRetval says whether a connect hook may choose the error: since 6.1. Asked
// as our programs do it, since 7.2 refuses what is not the negative of an errno,
// which is what features.HaveProgramHelper tries.
func haveRetval() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lictor_probe", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, -int32(unix.ECONNREFUSED)), asm.FnSetRetval.Call(),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
		},
	})
	if errors.Is(err, unix.EINVAL) {
		return errors.New("no bpf_set_retval in connect hooks")
	}
	if err != nil {
		return fmt.Errorf("probe bpf_set_retval: %w", err)
	}
	return prog.Close()
}

func explainLoad(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM), haveCaps() != nil:
		// Without CAP_PERFMON it is the verifier that refuses: it knows no such helper.
		return fmt.Errorf("load the programs: %w", forbidden(err))
	case errors.As(err, &verifier):
		return fmt.Errorf("load the programs: this kernel's verifier refuses them, which is a bug; please report this: %+v", verifier) //nolint:errorlint // its whole log
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("load the programs: this kernel lacks something, lictor doctor says what: %w", err)
	}
	return fmt.Errorf("load the programs: %w", err)
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close() // a duplicate of a descriptor that stays open
	}
}
