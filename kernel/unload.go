package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Unload detaches and unpins everything of Lictor's under bpffs, and removes
// the directory. It is a success when there is nothing. What is not Lictor's is
// left there and named in an ErrForeign; ErrLocked is returned while a daemon
// runs.
func Unload(bpffs string) (err error) {
	pins, err := openPins(bpffs, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pins.close()) }()
	if on, err := onBPFFS(bpffs); err != nil || !on {
		return err // no pin can be there
	}
	have, err := pins.scan()
	if err != nil {
		return err
	}
	ours, err := pins.mapIDs(have)
	if err != nil {
		return err
	}
	// The last to be attached goes first: no redirect without what follows it up.
	for i := len(hooks) - 1; i >= 0; i-- {
		for _, suffix := range []string{newSuffix, ""} {
			err = errors.Join(err, unlink(hooks[i], pins.linkPath(hooks[i].name)+suffix, ours))
		}
	}
	if err != nil {
		return err
	}
	for name, layouts := range have.maps {
		for _, layout := range layouts {
			err = errors.Join(err, os.Remove(pins.mapPath(name, layout)))
		}
	}
	for _, name := range have.links {
		if !isHook(name) {
			have.other = append(have.other, name)
		}
	}
	if len(have.other) > 0 {
		return errors.Join(err, fmt.Errorf("left %s in %s: %w; remove it if nothing needs it", strings.Join(have.other, ", "), bpffs, ErrForeign))
	}
	if err != nil {
		return err
	}
	// A directory that is a mount point stays.
	if err := os.Remove(bpffs); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return nil
}

func isHook(file string) bool {
	for _, h := range hooks {
		if file == linkPrefix+h.name || file == linkPrefix+h.name+newSuffix {
			return true
		}
	}
	return false
}

// mapIDs are those of the pinned maps, by which links of ours are known.
func (d *pinDir) mapIDs(have pinned) (ids []ebpf.MapID, err error) {
	for name, layouts := range have.maps {
		for _, layout := range layouts {
			m, err := ebpf.LoadPinnedMap(d.mapPath(name, layout), nil)
			if err != nil {
				return nil, fmt.Errorf("open pin %s: %w (%w)", d.mapPath(name, layout), err, ErrForeign)
			}
			id, err := mapID(m)
			if err = errors.Join(err, m.Close()); err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// unlink detaches a pinned link and removes its pin.
func unlink(h hook, path string, ours []ebpf.MapID) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pin %s: %w (%w)", path, err, ErrForeign)
	}
	defer l.Close()
	if _, err := checkOurs(l, h, path, ours); err != nil {
		return err
	}
	// Someone else may hold the link open; the unpinned link would go on then.
	if err := l.Detach(); err != nil && !errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("detach %s: %w", filepath.Base(path), err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}
