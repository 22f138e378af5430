package statuspage

import (
	"fmt"
	"strconv"
)

// grouped writes a number with its thousands apart.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// are counts something in words: "1 proxy", "2 proxies".
func are(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(uint64(n)) + " " + many
}

// size writes a number of bytes, on one line.
func size(bytes int64) string {
	switch {
	case bytes < 1000:
		return fmt.Sprintf("%d\u00a0B", bytes)
	case bytes < 1000_000:
		return fmt.Sprintf("%.0f\u00a0kB", float64(bytes)/1000)
	default:
		return fmt.Sprintf("%.1f\u00a0MB", float64(bytes)/1000_000)
	}
}
