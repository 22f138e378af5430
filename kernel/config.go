// Package kernel puts Lictor's hook into the kernel and keeps it there.
//
// The C programs in bpf/ redirect connects to VIPs and count them; this package
// loads them, attaches them by pinned links, upgrades them in place, and gives
// the daemon typed access to the maps. README.md says who writes each word.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Sizes of the kernel's maps.
const (
	MaxRanked  = int(lictorLimitMAX_RANKED)  // servers that one VIP is given
	MaxVIPs    = int(lictorLimitMAX_VIPS)    // VIP slots; slot 0 is the probe's
	MaxServers = int(lictorLimitMAX_SERVERS) // server slots; slot 0 is the probe's
)

// Errors that callers tell apart.
var (
	// ErrLocked is returned by Open and Unload when another daemon works on the
	// same bpffs path.
	ErrLocked = errors.New("another lictord holds the bpffs path")
	// ErrNewer is returned by Open when what is pinned was written by a newer
	// version, whose layout this one does not know. Nothing was touched.
	ErrNewer = errors.New("pinned by a newer version of lictord")
	// ErrForeign is returned when something that is not Lictor's is in the way.
	ErrForeign = errors.New("not ours")
)

// Config says where the hook goes and how it judges.
type Config struct {
	BPFFS  string       // directory for pins, created; a bpffs is mounted when there is none
	Cgroup string       // cgroup-v2 directory to attach to; "": the root of the cgroup2 mount
	Pool4  netip.Prefix // IPv4 addresses that are VIPs; zero: none
	Pool6  netip.Prefix // IPv6 addresses that are VIPs; zero: none

	// How long a server is passed over, for the VIP that it failed or refused.
	HoldFailed  time.Duration // after a connect that failed; 0: 10 s
	HoldBounced time.Duration // after a bounce; 0: 15 s
	// HoldRefused is how long a server that answered a connect with a reset is
	// passed over by every VIP of the host that has another one; 0: 5 s.
	HoldRefused time.Duration

	BounceWindow time.Duration // a connection that lived longer was no bounce; 0: 2 s
	BounceBytes  uint32        // nor one that received as much; 0: 1000. With TLS 4000 is right.

	// When every server of a VIP has refused, its connects are refused on the
	// host. For Eager all VIPs together try each server once in WaitMin; then
	// each VIP waits for WaitMin, twice as long each time, up to WaitMax.
	Eager   time.Duration // 0: 15 s, longer than Consul takes to drop a dead server
	WaitMin time.Duration // 0: 500 ms
	WaitMax time.Duration // 0: 15 s

	RingBytes uint32       // size of the event ring when it is created, a power of two; 0: 2 MiB
	Logger    *slog.Logger // nil: nothing is logged
}

// withDefaults fills in what is zero and checks the rest.
func (c Config) withDefaults() (Config, error) {
	setDuration(&c.HoldFailed, 10*time.Second)
	setDuration(&c.HoldBounced, 15*time.Second)
	setDuration(&c.HoldRefused, 5*time.Second)
	setDuration(&c.BounceWindow, 2*time.Second)
	setDuration(&c.Eager, 15*time.Second)
	setDuration(&c.WaitMin, 500*time.Millisecond)
	setDuration(&c.WaitMax, 15*time.Second)
	if c.BounceBytes == 0 {
		c.BounceBytes = 1000
	}
	if c.RingBytes == 0 {
		c.RingBytes = 2 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.BPFFS == "" {
		return c, errors.New("no bpffs directory given")
	}
	if err := checkPool(c.Pool4, netip.Addr.Is4); err != nil {
		return c, fmt.Errorf("IPv4 pool: %w", err)
	}
	if err := checkPool(c.Pool6, func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }); err != nil {
		return c, fmt.Errorf("IPv6 pool: %w", err)
	}
	if c.WaitMin > c.WaitMax || c.WaitMin < time.Millisecond {
		return c, fmt.Errorf("wait of %v to %v: the first must be at least 1ms and not longer than the second", c.WaitMin, c.WaitMax)
	}
	return c, nil
}

func setDuration(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

func checkPool(p netip.Prefix, family func(netip.Addr) bool) error {
	switch {
	case p == netip.Prefix{}:
		return nil
	case !p.IsValid() || !family(p.Addr()):
		return fmt.Errorf("%v is not a prefix of that family", p)
	case p != p.Masked():
		return fmt.Errorf("%v has host bits set; did you mean %v?", p, p.Masked())
	}
	return nil
}

// HoldFor is how long a hold-down of a VIP's server lasts.
func (k *Kernel) HoldFor(r HoldReason) time.Duration {
	if r == HoldBounced {
		return k.cfg.HoldBounced
	}
	return k.cfg.HoldFailed
}
