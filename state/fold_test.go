package state_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestFoldTranscripts folds the events of each transcript and compares what is
// printed. A transcript holds events, one JSON object a line, and after every
// line "state" or "check" what that gave:
//
//	state    the whole state, indented
//	check    the invariants that do not hold
//	# …      a comment
//
// Run with -update to rewrite what follows them.
func TestFoldTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := transcript(t, want)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; run with -update and look at the diff\ngot:\n%s", file, got)
			}
		})
	}
}

// transcript copies the input's comments and events, and answers its commands
// anew. Indented lines are old answers.
func transcript(t *testing.T, in []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	s := state.New()
	lines := bufio.NewScanner(bytes.NewReader(in))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&out, line)
		switch {
		case line == "state":
			fmt.Fprintf(&out, "\t%s\n", indented(t, s))
		case line == "check":
			answer := "ok"
			if err := s.Check(); err != nil {
				answer = strings.ReplaceAll(err.Error(), "\n", "\n\t")
			}
			fmt.Fprintf(&out, "\t%s\n", answer)
		case strings.HasPrefix(line, "{"):
			var e state.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			s = state.Fold(s, e)
		}
	}
	return out.Bytes()
}

func indented(t *testing.T, s state.State) string {
	t.Helper()
	text, err := json.MarshalIndent(s, "\t", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
