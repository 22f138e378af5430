package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A bpffs directory of Lictor's holds maps as NAME_vLAYOUT and links as
// link_HOOK. Maps of former layouts stay beside the present ones as long as
// something in them counts.
const linkPrefix = "link_"

// newSuffix marks a link that is about to replace another one.
const newSuffix = "_new"

// pinDir is a bpffs directory, locked.
type pinDir struct {
	path string
	lock *os.File
}

// openPins makes the directory when asked to, and locks it. Without make, an
// absent directory gives fs.ErrNotExist.
func openPins(path string, make bool) (*pinDir, error) {
	if make {
		if err := ensureBPFFS(path); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("make pin directory: %w", err)
		}
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("open pin directory: %w; run as root", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open pin directory: %w", err)
	}
	// A lock on the directory itself: bpffs holds no files, and one beside it
	// could be on another file system than the next daemon's.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%s: %w; stop it first, or give this one another bpffs path and pool", path, ErrLocked)
		}
		return nil, errors.Join(err, f.Close())
	}
	return &pinDir{path: path, lock: f}, nil
}

func (d *pinDir) close() error { return d.lock.Close() }

func (d *pinDir) mapPath(name string, layout int) string {
	return filepath.Join(d.path, name+"_v"+strconv.Itoa(layout))
}

func (d *pinDir) linkPath(hook string) string { return filepath.Join(d.path, linkPrefix+hook) }

// pinned is what a directory holds.
type pinned struct {
	maps  map[string][]int // name → layouts, ascending
	links []string         // file names
	other []string         // file names that are not Lictor's
}

func (d *pinDir) scan() (pinned, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return pinned{}, fmt.Errorf("read pin directory: %w", err)
	}
	p := pinned{maps: map[string][]int{}}
	for _, e := range entries {
		name, layout, ok := parseMapPin(e.Name())
		switch {
		case ok:
			p.maps[name] = append(p.maps[name], layout)
		case strings.HasPrefix(e.Name(), linkPrefix):
			p.links = append(p.links, e.Name())
		default:
			p.other = append(p.other, e.Name())
		}
	}
	for _, l := range p.maps {
		slices.Sort(l)
	}
	return p, nil
}

func parseMapPin(file string) (name string, layout int, ok bool) {
	i := strings.LastIndex(file, "_v")
	if i < 0 {
		return "", 0, false
	}
	layout, err := strconv.Atoi(file[i+2:])
	_, known := thisVersion.layouts[file[:i]]
	return file[:i], layout, err == nil && layout >= 0 && known
}

// checkNewer refuses what a newer version pinned.
func (p pinned) checkNewer(layouts map[string]int) error {
	for name, have := range p.maps {
		if newest := have[len(have)-1]; newest > layouts[name] {
			return fmt.Errorf("map %s has layout %d, this version knows %d: %w; start that version again, or run lictor unload",
				name, newest, layouts[name], ErrNewer)
		}
	}
	return nil
}

// ensureBPFFS mounts a bpffs when path is not on one: at /sys/fs/bpf for paths
// below it, else at path itself.
func ensureBPFFS(path string) error {
	const usual = "/sys/fs/bpf"
	on, err := onBPFFS(path)
	if on || err != nil {
		return err
	}
	at := path
	if strings.HasPrefix(filepath.Clean(path)+"/", usual+"/") {
		at = usual
	} else if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	if err := unix.Mount("bpf", at, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs at %s: %w; do it before lictord starts, or give a --bpffs that is on one", at, err)
	}
	return nil
}

// onBPFFS asks the nearest directory that exists.
func onBPFFS(path string) (bool, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if err == nil {
			return st.Type == unix.BPF_FS_MAGIC, nil
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			return false, fmt.Errorf("look for a bpffs at %s: %w; run as root", path, err)
		case !errors.Is(err, fs.ErrNotExist), path == filepath.Dir(path):
			return false, fmt.Errorf("look for a bpffs at %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
}
