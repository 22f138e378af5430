package bed_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A stand-in for lictord that says where it runs; the real one has its own
// end-to-end tests, which stand on this.
func init() {
	reexec.Handle("lictord", func() error {
		flags := map[string]string{}
		for _, arg := range os.Args[1:] {
			name, value, _ := strings.Cut(arg, "=")
			flags[name] = value
		}
		if flags["--fail"] != "" {
			return errors.New(flags["--fail"])
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("GET /where", func(w http.ResponseWriter, _ *http.Request) {
			cgroup, _ := os.ReadFile("/proc/self/cgroup")
			boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
			hosts, _ := os.ReadFile("/etc/hosts")
			_ = json.NewEncoder(w).Encode(where{PID: os.Getpid(), Args: os.Args[1:], Cgroup: string(cgroup), BootID: string(boot), Hosts: string(hosts)})
		})
		l, err := net.Listen("tcp", flags["--http-addr"])
		if err != nil {
			return err
		}
		return http.Serve(l, mux)
	})
}

type where struct {
	PID                   int
	Args                  []string
	Cgroup, BootID, Hosts string
}

// fakeLictord is a program that runs the stand-in.
func fakeLictord(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	path := filepath.Join(t.TempDir(), "lictord")
	script := fmt.Sprintf("#!/bin/bash\nexec -a %s %s \"$@\"\n", reexec.Argv0("lictord"), self)
	check(t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

func TestLictorRunsAsItsHostAndComesBack(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	host, err := b.NewHost("host-1")
	check(t, err)
	pod, err := host.NewPod("pod-1")
	check(t, err)
	hosts := filepath.Join(host.Dir, "hosts")
	check(t, os.WriteFile(hosts, []byte("10.66.0.9 consul.test\n"), 0o644))
	ctx := within(t, 60*time.Second)

	l, err := host.StartLictor(bed.LictorOptions{
		Binary: fakeLictord(t), Args: []string{"--log-level=debug"}, Files: map[string]string{"/etc/hosts": hosts},
	})
	check(t, err)
	check(t, l.WaitReady(ctx))
	first := ask(t, l)
	for _, want := range []string{"--cgroup=" + host.Cgroup, "--socket=" + l.Socket, "--state-dir=" + l.State, "--node-name=host-1", "--log-level=debug"} {
		if !slices.Contains(first.Args, want) {
			t.Errorf("flags = %q, want %s among them", first.Args, want)
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(first.Cgroup), "/hosts/host-1/system/lictord") {
		t.Errorf("cgroup = %s, want one below the host's", first.Cgroup)
	}
	if !strings.Contains(first.Hosts, "consul.test") {
		t.Errorf("/etc/hosts = %q, want the given file", first.Hosts)
	}

	check(t, l.Start())
	check(t, l.WaitReady(ctx))
	if again := ask(t, l); again.PID == first.PID || again.BootID != first.BootID {
		t.Errorf("after a restart pid = %d, boot id %s; before: %d, %s", again.PID, again.BootID, first.PID, first.BootID)
	}

	t.Log("reboot")
	cookie, err := host.Netns.Cookie()
	check(t, err)
	pin := filepath.Join(host.BPFFS, "lictor")
	check(t, os.Mkdir(pin, 0o700))
	check(t, host.Reboot())
	if l.Process().Alive() {
		t.Error("lictord survived a reboot")
	}
	for _, gone := range []string{pin, pod.Netns.Path, pod.Cgroup} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s survived a reboot: %v", gone, err)
		}
	}
	check(t, l.Start())
	check(t, l.WaitReady(ctx))
	fresh, err := host.Netns.Cookie()
	check(t, err)
	if after := ask(t, l); fresh == cookie || after.BootID == first.BootID || len(after.BootID) != len(first.BootID) {
		t.Errorf("after a reboot cookie = %d, boot id %q; before: %d, %q", fresh, after.BootID, cookie, first.BootID)
	}

	t.Log("a daemon that ends is not waited for")
	check(t, l.Start(bed.LictorOptions{Binary: fakeLictord(t), Args: []string{"--fail=no luck"}}))
	var ended *bed.EndedError
	if err := l.WaitReady(ctx); !errors.As(err, &ended) || !strings.Contains(ended.Log, "no luck") {
		t.Errorf("wait = %v, want its end with its log", err)
	}
}

func ask(t *testing.T, l *bed.Lictor) (w where) {
	t.Helper()
	body, err := l.Get(t.Context(), "/where")
	check(t, err)
	check(t, json.Unmarshal(body, &w))
	return w
}
