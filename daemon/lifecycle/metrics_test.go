package lifecycle

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// endless is lines without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = "x 1\n"[i%4]
	}
	return len(b) - len(b)%4, nil
}

func TestCopyLinesIsBounded(t *testing.T) {
	if err := copyLines(bufio.NewWriter(io.Discard), endless{}); !errors.Is(err, errTooLarge) {
		t.Errorf("lines without end: %v", err)
	}
	if err := copyLines(bufio.NewWriter(io.Discard), strings.NewReader(strings.Repeat("x", maxLine+1))); !errors.Is(err, errLongLine) {
		t.Errorf("a line without end: %v", err)
	}
}

func TestTimeoutOf(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": scrapeTimeout, "10": 9 * time.Second, "0.5": 450 * time.Millisecond,
		"-1": scrapeTimeout, "NaN": scrapeTimeout, "soon": scrapeTimeout, "1e300": 54 * time.Second, "Inf": 54 * time.Second,
	} {
		if got := timeoutOf(http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {header}}); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

// Whatever a service sends, what is copied are whole lines of it, in order.
func FuzzCopyLines(f *testing.F) {
	for _, seed := range []string{"", "a 1\nb 2\n", "a 1\r\n\n  # EOF\nb 2", "\n\n", "# EOF", strings.Repeat("x", maxLine-1) + "\ny 1\n", strings.Repeat("x", maxLine)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want, got bytes.Buffer
		for line := range bytes.Lines(text) {
			if len(line) > maxLine || len(line) == maxLine && line[maxLine-1] != '\n' {
				break
			}
			if line = bytes.TrimSpace(line); len(line) > 0 && string(line) != "# EOF" {
				want.Write(line)
				want.WriteByte('\n')
			}
		}
		out := bufio.NewWriter(&got)
		_ = copyLines(out, bytes.NewReader(text))
		if err := out.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("copied %q of %q", got.Bytes(), text)
		}
	})
}
