package logs

import (
	"fmt"
	"hash/maphash"
	"log/slog"
)

// words adds an attribute to a hash, as far as it tells lines apart.
func words(sum *maphash.Hash, a slog.Attr) {
	value := a.Value.Resolve()
	_, _ = sum.WriteString(a.Key)
	_ = sum.WriteByte(0)
	switch value.Kind() {
	case slog.KindString:
		text(sum, a.Key, value.String())
	case slog.KindBool:
		text(sum, a.Key, fmt.Sprint(value.Bool()))
	case slog.KindGroup:
		for _, inner := range value.Group() {
			words(sum, inner)
		}
	case slog.KindAny:
		text(sum, a.Key, fmt.Sprint(value.Any()))
	}
	_ = sum.WriteByte(0)
}

// text adds a text. Errors name ports, sequence numbers and times: their digits
// are left away.
func text(sum *maphash.Hash, key, s string) {
	if key != "err" && key != "problem" {
		_, _ = sum.WriteString(s)
		return
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			_ = sum.WriteByte(s[i])
		}
	}
}
