// Package owners finds out who may connect to a VIP: it turns what a caller
// asks for into numbers that the kernel can compare, finds them again after a
// reboot, and notices when they are gone.
package owners

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/kernel/netns"
	"github.com/lictor-mesh/lictor/state"
)

// ErrRootOnly says that only root may name an owner other than itself.
var ErrRootOnly = errors.New("only root may name another owner than the caller's network namespace")

// ErrInvalid says that the owner that was asked for cannot be used.
var ErrInvalid = errors.New("invalid owner")

// Caller is who asks.
type Caller struct {
	UID         uint32
	NetnsCookie uint64
	NetnsInode  uint64
}

// Resolver resolves owners in one boot of the host. It is safe for concurrent
// use.
type Resolver struct {
	BootID string
}

// Requested resolves the owner that a registration asks for. A path that is not
// there is an error now: a typo must not wait for ever.
func (r Resolver) Requested(c Caller, req v1.RegisterRequest) (state.Owner, error) {
	named := 0
	for _, s := range []string{req.Netns, req.Cgroup, req.Owner} {
		if s != "" {
			named++
		}
	}
	switch {
	case named > 1:
		return state.Owner{}, fmt.Errorf("%w: give one of netns, cgroup and owner, or none for the caller's network namespace", ErrInvalid)
	case named == 1 && c.UID != 0:
		return state.Owner{}, ErrRootOnly
	case req.Owner == string(state.OwnerAny):
		return state.Owner{Kind: state.OwnerAny}, nil
	case req.Owner != "":
		return state.Owner{}, fmt.Errorf("%w: owner can only be \"any\"; name a namespace by netns and a cgroup by cgroup", ErrInvalid)
	case req.Netns != "":
		return r.Resolve(state.Owner{Kind: state.OwnerNetns, Path: req.Netns})
	case req.Cgroup != "":
		return r.Resolve(state.Owner{Kind: state.OwnerCgroup, Path: req.Cgroup})
	case c.NetnsCookie == 0:
		return state.Owner{}, fmt.Errorf("%w: the kernel does not tell the caller's network namespace (SO_NETNS_COOKIE, Linux 5.14); as root, give netns or cgroup", ErrInvalid)
	default:
		return state.Owner{Kind: state.OwnerNetns, ID: c.NetnsCookie, Inode: c.NetnsInode, BootID: r.BootID}, nil
	}
}

// Resolve finds the numbers of an owner by its path, in this boot.
func (r Resolver) Resolve(o state.Owner) (state.Owner, error) {
	if !filepath.IsAbs(o.Path) {
		return o, fmt.Errorf("%w: %s is not an absolute path", ErrInvalid, o.Path)
	}
	switch o.Kind {
	case state.OwnerNetns:
		ns, err := netns.Stat(o.Path)
		if err != nil {
			return o, fmt.Errorf("%w: %w; give the path of a network namespace, such as /run/netns/NAME or /proc/PID/ns/net", ErrInvalid, err)
		}
		o.ID, o.Inode = ns.Cookie, ns.Inode
	case state.OwnerCgroup:
		cg, err := cgroup.Stat(o.Path)
		if err != nil {
			return o, fmt.Errorf("%w: %w; give the path of a cgroup-v2 directory of this host", ErrInvalid, err)
		}
		if cg.Level == 0 {
			return o, fmt.Errorf("%w: %s is the root of the hierarchy, which every process is below; say owner \"any\" if that is meant", ErrInvalid, o.Path)
		}
		o.ID, o.Level = cg.ID, cg.Level
	default:
		return o, nil
	}
	o.BootID = r.BootID
	return o, nil
}

// unchanged says, cheaply, that a path still leads to what was resolved.
func (r Resolver) unchanged(o state.Owner) bool {
	if o.BootID != r.BootID || o.ID == 0 {
		return false
	}
	if o.Kind == state.OwnerCgroup {
		id, err := cgroup.ID(o.Path)
		return err == nil && id == o.ID
	}
	var st unix.Stat_t
	return unix.Stat(o.Path, &st) == nil && st.Ino == o.Inode
}

// Gone says whether an owner is not on the host any more. One that cannot be
// looked for is taken to be there.
func (r Resolver) Gone(o state.Owner) bool {
	gone, err := r.gone([]state.Owner{o})
	return err == nil && gone[0]
}

// gone looks for several owners by one scan of the host.
func (r Resolver) gone(all []state.Owner) ([]bool, error) {
	var ids []netns.ID
	for _, o := range all {
		if o.Kind == state.OwnerNetns && o.Path == "" && o.BootID == r.BootID {
			ids = append(ids, netns.ID{Cookie: o.ID, Inode: o.Inode})
		}
	}
	alive := map[netns.ID]bool{}
	if len(ids) > 0 {
		var err error
		if alive, err = netns.Alive(ids); err != nil {
			return nil, err
		}
	}
	out := make([]bool, len(all))
	for i, o := range all {
		switch {
		case o.Kind == state.OwnerAny:
		case o.Path != "":
			_, err := r.Resolve(o)
			out[i] = errors.Is(err, fs.ErrNotExist)
		case o.BootID != r.BootID:
			out[i] = true // its numbers ended with its boot
		default:
			out[i] = !alive[netns.ID{Cookie: o.ID, Inode: o.Inode}]
		}
	}
	return out, nil
}

// BootID reads the id of the running boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
