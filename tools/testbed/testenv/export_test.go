package testenv

import (
	"io"
	"testing"
	"time"
)

// Hurry shortens what leaks are given to settle, for a test that leaves some.
func Hurry(t *testing.T) {
	was := settle
	settle = 50 * time.Millisecond
	t.Cleanup(func() { settle = was })
}

// CheckedTo is Checked with another place to say it.
func CheckedTo(m Tests, out io.Writer) Tests { return checked{m, out} }
