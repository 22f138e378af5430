// Package input shows what the real lictord and lictor do with what they cannot
// take: they say so, and nothing is changed.
package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// built is one of the repository's programs, as `make build` leaves it.
func built(t *testing.T, name string) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "bin", name)
	if _, err := os.Stat(path); err != nil {
		testenv.Lacks(t, fmt.Errorf("%w: make build makes it", err))
	}
	return path
}

// complains runs a program that must say what is wrong with its command line:
// exit status 2, nothing on standard output, and a sentence on standard error
// that has the given word and no control characters.
func complains(t *testing.T, env []string, word, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	said := stderr.String()
	shown := args
	if len(strings.Join(args, " ")) > 200 {
		shown = []string{strings.Join(args, " ")[:200] + "…"}
	}
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Errorf("%q: %v", shown, err)
	case err == nil || exit.ExitCode() != 2:
		t.Errorf("%q: ended with %v, want exit status 2; it said: %.300s", shown, err, said)
	case stdout.Len() > 0:
		t.Errorf("%q: wrote to standard output: %.300s", shown, stdout.String())
	case !strings.Contains(said, word):
		t.Errorf("%q: does not name %s: %.300s", shown, word, said)
	case word != "" && len(said) > 4<<10:
		t.Errorf("%q: %d bytes of complaint", shown, len(said))
	case !utf8.ValidString(said), strings.ContainsFunc(strings.ReplaceAll(said, "\n", ""), unicode.IsControl):
		t.Errorf("%q: the complaint has control characters in it: %.300q", shown, said)
	}
}

const latin1 = "caf\xe9" // not UTF-8

// Every flag of lictord's, with values of the wrong type, size and encoding. A
// value that were taken would end in exit status 1: the state directory is a file.
func TestLictordRefusesBadFlags(t *testing.T) {
	lictord := built(t, "lictord")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 10<<10)
	numbers := []string{"", "x", "-1", "0x50", "65536", "8500.5", "1e3", " 80", "99999999999999999999", latin1}
	ports := append([]string{"0"}, numbers...)
	paths := []string{"relative", "./relative", "/" + long}
	switches := []string{"maybe", "2", "yes please", latin1}
	bad := map[string][]string{
		"config-file":           {"/no/such/file.hcl", long},
		"consul-addresses":      {"", ",", "a,,b", "exec=", "exec= ", "a,exec=b", "10.0.0.1:x", "10.0.0.1:0", "0.0.0.0", "300.1.1.1", "a b", "a\nb", latin1, long},
		"consul-http-port":      numbers[1:],
		"consul-grpc-port":      numbers[1:],
		"consul-dns-port":       ports,
		"consul-token-file":     paths,
		"server-watch-disabled": switches,
		"tls-disabled":          switches,
		"ca-certs":              paths,
		"tls-cert":              append([]string{"/cert-without-a-key"}, paths...),
		"tls-key":               append([]string{"/key-without-a-cert"}, paths...),
		"tls-server-name":       {"a\nb", "a b", latin1, long},
		"cgroup":                paths,
		"bpffs":                 append([]string{""}, paths...),
		"state-dir":             append([]string{""}, paths...),
		"node-name":             {"a/b", "a b", "a\nb", "\x1b[31m", latin1, long},
		"vip-cidr":              {"x", "239.77.0.0", "239.77.0.1/16", "0.0.0.0/8", "239.0.0.0/4", "239.77.0.0/31", "ff05::/96", latin1, long},
		"vip-cidr6":             {"x", "ff05::1/96", "::/16", "ff05::/8", "ff05::/127", "239.77.0.0/16", "::ffff:239.77.0.0/112", latin1, long},
		"vip-port":              ports,
		"socket":                append([]string{"", "/" + long}, paths...),
		"http-addr":             {"x", "9760", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536", "::1:9760", "a b:80", latin1 + ":80"},
		"log-level":             {"", "loud", "1", latin1},
		"log-json":              switches,
	}
	for name, values := range bad {
		t.Run(name, func(t *testing.T) {
			for _, value := range values {
				args := []string{"--consul-addresses=127.0.0.1", "--state-dir=" + file, "--bpffs=" + file, "--" + name + "=" + value}
				complains(t, nil, name, lictord, args...)
			}
			// The environment is read by the same code.
			variable, word := "LICTOR_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")), name
			if name != "config-file" {
				word = variable
			}
			args := []string{"--consul-addresses=127.0.0.1", "--state-dir=" + file}
			args = slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--"+name+"=") })
			complains(t, []string{variable + "=" + values[len(values)-1]}, word, lictord, args...)
		})
	}
	t.Run("every flag is here", func(t *testing.T) {
		help, err := exec.CommandContext(t.Context(), lictord, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s+--([a-z0-9-]+)`).FindAllStringSubmatch(string(help), -1) {
			if name := m[1]; bad[name] == nil && name != "help" && name != "version" {
				t.Errorf("--%s has no bad value in this test", name)
			}
		}
	})
	for name, args := range map[string][]string{
		"a file of no kind": {"--config-file=" + file},
		"a file not there":  {"--config-file=relative.hcl"},
		"unknown flag":      {"--no-such-flag"},
		"argument":          {"start"},
		"flag without its":  {"--consul-addresses"},
		"nothing":           {},
		"not UTF-8":         {"--" + latin1},
		"ten thousand":      {"--" + long},
	} {
		t.Run(name, func(t *testing.T) { complains(t, nil, "", lictord, args...) })
	}
}

// Every command of lictor's, with what it cannot take. No daemon is asked.
func TestLictorRefusesBadCommandLines(t *testing.T) {
	lictor := built(t, "lictor")
	ids := []string{"", "a/b", `a\b`, "..", ".hidden", " a", "a\nb", "\x1b[31mred", latin1, strings.Repeat("x", 10<<10)}
	socket := "--socket=" + filepath.Join(t.TempDir(), "none.sock")
	for _, command := range []string{"register", "deregister", "history", "bootstrap", "drain", "undrain"} {
		t.Run(command, func(t *testing.T) {
			for _, id := range ids {
				complains(t, nil, "", lictor, socket, command, "--", id)
			}
			complains(t, nil, "", lictor, socket, command)
			complains(t, nil, "", lictor, socket, command, "a", "b")
			complains(t, nil, "", lictor, socket, command, "a", "--no-such-flag")
		})
	}
	for _, args := range [][]string{
		{"no-such-command"},
		{"register", "a", "--netns=/a", "--any"},
		{"register", "a", "--netns=/a", "--cgroup=/b"},
		{"register", "a", "--any=maybe"},
		{"register", "a", "--node-name=a/b"},
		{"register", "a", "--namespace=" + latin1},
		{"register", "a", "--partition=" + strings.Repeat("x", 10<<10)},
		{"proxies", "argument"},
		{"servers", "argument"},
		{"status", "argument"},
		{"events", "--since=x"},
		{"events", "--since=-1"},
		{"events", "argument"},
		{"journal", "no-such-command"},
		{"journal", "state"},
		{"journal", "state", "--at=yesterday-ish"},
		{"journal", "state", "--at=-5"},
		{"unload", "argument"},
		{"doctor", "argument"},
		{"version", "argument"},
		{"completion", "tcsh"},
		{"status", "--json=maybe"},
		{"--" + latin1},
	} {
		t.Run(strings.ToValidUTF8(strings.Join(args, " ")[:min(30, len(strings.Join(args, " ")))], "?"), func(t *testing.T) {
			complains(t, nil, "", lictor, append([]string{socket}, args...)...)
		})
	}
}
