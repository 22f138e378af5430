package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A wrong cgroup is found out before anything is pinned.
func TestOpenRefusesWhatIsNoCgroup(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	bpffs := filepath.Join(testenv.BPFFS(t), "lictor")
	for dir, want := range map[string]error{"/nowhere": fs.ErrNotExist, t.TempDir(): cgroup.ErrNotCgroup} {
		if _, err := Open(t.Context(), Config{BPFFS: bpffs, Cgroup: dir, Pool4: pool4}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", dir, err, want)
		}
		if _, err := os.Stat(bpffs); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s was made: %v", dir, bpffs, err)
		}
	}
}

// Verifiers of older kernels prune less than that of 6.18 (5.10 and 6.1 process 22,000
// instructions), and all give up at a million. A loop in the wrong place costs a
// factor of a hundred.
func TestVerifierHasLittleToDo(t *testing.T) {
	testenv.Privileged(t)
	most := 20_000
	if must(features.LinuxVersionCode()) < 6<<16|18<<8 {
		most = 30_000
	}
	k := &Kernel{version: thisVersion, cfg: must(Config{BPFFS: "unused", Pool4: pool4, Pool6: pool6}.withDefaults())}
	spec := must(k.spec())
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	for name, prog := range coll.Programs {
		m := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(prog.VerifierLog)
		if m == nil {
			t.Errorf("%s: no count in the verifier's log %q", name, prog.VerifierLog)
			continue
		}
		if n := must(strconv.Atoi(m[1])); n > most {
			t.Errorf("%s: the verifier processed %d instructions, want at most %d", name, n, most)
		}
	}
}
