package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// List returns the runs whose processes are alive.
func List() ([]Info, error) {
	unlock, err := lockRegistry()
	if err != nil {
		return nil, err
	}
	defer unlock()
	alive, _, err := registered()
	return alive, err
}

// Sweep removes what dead runs left and returns their ids.
func Sweep() ([]string, error) {
	unlock, err := lockRegistry()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return sweepLocked()
}

func sweepLocked() ([]string, error) {
	_, dead, err := registered()
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, id := range dead {
		if err := remove(id); err != nil {
			errs = append(errs, fmt.Errorf("sweep run %s: %w", id, err))
			continue
		}
		swept = append(swept, id)
	}
	return swept, errors.Join(errs...)
}

// registered tells the runs that hold their lock from those that do not.
func registered() (alive []Info, dead []string, err error) {
	entries, err := os.ReadDir(Registry)
	if err != nil {
		return nil, nil, fmt.Errorf("read registry of runs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, held := inspect(filepath.Join(Registry, e.Name(), "info.json"))
		if held {
			alive = append(alive, info)
		} else {
			dead = append(dead, e.Name())
		}
	}
	return alive, dead, nil
}

func inspect(path string) (info Info, held bool) {
	f, err := os.Open(path)
	if err != nil {
		return info, false // killed between mkdir and the file: nothing else was made
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return info, false
	}
	_ = json.NewDecoder(f).Decode(&info) // half-written is still alive
	return info, true
}

// remove takes away everything that bears the name of a run, its registration
// last, so that an interrupted removal is taken up by the next sweep.
func remove(id string) error {
	errs := []error{
		RemoveCgroup(cgroupPath(id)), // first: processes pin namespaces and write to directories
		removeNetns(id),
		removeTree(bpffsPath(id)),
		removeTree(tempDir(id)),
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(Registry, id))
}

func removeTree(path string) error {
	if path == "" {
		return nil
	}
	return os.RemoveAll(path)
}

// removeNetns takes away what keeps the namespaces of a run alive. A namespace
// lives on while a process or a socket is in it; its links go with it.
func removeNetns(id string) error {
	entries, err := os.ReadDir(netnsDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, unnameNetns(filepath.Join(netnsDir(id), e.Name())))
	}
	// The directory's own mount, of shareMounts.
	if err := unix.Unmount(netnsDir(id), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", netnsDir(id), err))
	}
	return errors.Join(errs...)
}
