package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// release is one of Debian's, and the kernel that came with it.
type release struct {
	kernel string // "6.1": what a person calls it
	suites []string
	old    bool // below what lictord needs: it must say so
}

// releases has what Debian's archive holds. A 5.15 was never in a release, and
// the backports that had one are gone from the archive.
var releases = []release{
	{kernel: "5.10", suites: []string{"debian bullseye", "debian-security bullseye-security"}, old: true},
	{kernel: "6.1", suites: []string{"debian bookworm"}},
	{kernel: "6.12", suites: []string{"debian trixie"}},
	{kernel: "7", suites: []string{"debian sid"}},
}

// pick finds releases by the words of KERNELS; none means all.
func pick(words string) (picked []release, err error) {
	for word := range strings.FieldsSeq(words) {
		i := slices.IndexFunc(releases, func(r release) bool { return r.kernel == word })
		if i < 0 {
			var have []string
			for _, r := range releases {
				have = append(have, r.kernel)
			}
			return nil, fmt.Errorf("no kernel %q; there are %s", word, strings.Join(have, ", "))
		}
		picked = append(picked, releases[i])
	}
	if picked == nil {
		picked = releases
	}
	return picked, nil
}

// image is a kernel that was fetched.
type image struct {
	version string // as uname -r says
	vmlinuz string // file
	base    string // directory of lib/modules
}

// fetch returns a release's kernel: the newest one at the time of the first call,
// and from then on what is in the cache.
func fetch(ctx context.Context, cache string, r release) (image, error) {
	dir := filepath.Join(cache, r.kernel)
	if i, err := found(dir); err == nil {
		return i, nil
	}
	apt, err := apt(filepath.Join(cache, "apt", r.kernel), r)
	if err != nil {
		return image{}, err
	}
	tree := dir + ".new" // so that it is whole or not there
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(tree), os.MkdirAll(tree, 0o755)); err != nil {
		return image{}, err
	}
	if _, err := run(ctx, "", "apt-get", append(apt, "update")...); err != nil {
		return image{}, err
	}
	depends, err := run(ctx, "", "apt-cache", append(apt, "depends", "--recurse", "--important", "linux-image-amd64")...)
	if err != nil {
		return image{}, err
	}
	if _, err := run(ctx, tree, "apt-get", slices.Concat(apt, []string{"download"}, wanted(depends))...); err != nil {
		return image{}, err
	}
	if _, err := run(ctx, tree, "sh", "-c", "for deb in *.deb; do dpkg-deb --extract $deb . && rm $deb || exit 1; done"); err != nil {
		return image{}, err
	}
	if _, err := found(tree); err != nil {
		return image{}, err
	}
	if err := os.Rename(tree, dir); err != nil {
		return image{}, err
	}
	return found(dir)
}

// apt makes a directory for an apt of its own, and returns the options that say
// so: the machine's lists and what is installed do not matter, or change.
func apt(dir string, r release) ([]string, error) {
	const keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
	var sources strings.Builder
	for _, suite := range r.suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s] http://deb.debian.org/%s main\n", keys, suite)
	}
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "state/lists/partial"), 0o755),
		os.MkdirAll(filepath.Join(dir, "cache/archives/partial"), 0o755),
		os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "status"), nil, 0o644))
	options := []string{"-qq"}
	for _, o := range []string{
		"Dir::Etc::sourcelist=" + dir + "/sources.list", "Dir::Etc::sourceparts=/dev/null",
		"Dir::Etc::preferences=/dev/null", "Dir::Etc::preferencesparts=/dev/null",
		"Dir::State=" + dir + "/state", "Dir::State::status=" + dir + "/status", "Dir::Cache=" + dir + "/cache",
		"APT::Architecture=amd64", "Acquire::Languages=none", "APT::Sandbox::User=root", // _apt may not write here
	} {
		options = append(options, "-o", o)
	}
	return options, err
}

// wanted are the packages that hold a kernel and its modules: since 7.1 the
// image's package is empty, and depends on one for each part.
func wanted(depends string) (packages []string) {
	name := regexp.MustCompile(`^linux-(image|base|binary|modules)-[0-9][^ ]*-amd64$`)
	for line := range strings.Lines(depends) {
		if line = strings.TrimSpace(line); name.MatchString(line) {
			packages = append(packages, line)
		}
	}
	return packages
}

// found looks for a kernel among the files of its packages.
func found(dir string) (image, error) {
	for _, usr := range []string{"", "usr"} {
		dirs, err := filepath.Glob(filepath.Join(dir, usr, "lib/modules/*"))
		if err != nil || len(dirs) != 1 {
			continue
		}
		i := image{version: filepath.Base(dirs[0]), base: filepath.Join(dir, usr)}
		for _, at := range []string{filepath.Join(dir, "boot", "vmlinuz-"+i.version), filepath.Join(dirs[0], "vmlinuz")} {
			if _, err := os.Stat(at); err == nil {
				i.vmlinuz = at
				return i, nil
			}
		}
	}
	return image{}, fmt.Errorf("no kernel with its modules in %s", dir)
}

// run returns what a command printed; its error has what it complained about.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", name, err, cmp.Or(strings.TrimSpace(string(exit.Stderr)), "no complaint"))
	}
	return string(out), err
}
