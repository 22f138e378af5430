package testenv_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// Nothing is left behind by any test: every package that has tests looks.
func TestEveryPackageLooks(t *testing.T) {
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	looks := regexp.MustCompile(`func TestMain\(m \*testing\.M\) \{\s+(testenv\.Main|beside\.Main|testscript\.Main\(testenv\.Checked)\(m\b`)
	packages := map[string]bool{} // and whether it looks
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path != root && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		dir := filepath.Dir(path)
		packages[dir] = packages[dir] || looks.Match(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, looks := range packages {
		if !looks {
			t.Errorf("%s has tests and no: func TestMain(m *testing.M) { testenv.Main(m) }", dir)
		}
	}
	if len(packages) < 40 {
		t.Errorf("only %d packages with tests were found", len(packages))
	}
}
