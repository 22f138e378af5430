package bootstrap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// list is a number of JSON objects, as they were given.
type list struct {
	key   string
	raw   []json.RawMessage
	names []string // "" for an object without one
}

// list reads objects that stand one after the other with commas between, as
// Consul has it.
func (r *knobReader) list(key string, into func() validator) list {
	l := list{key: key}
	text := strings.TrimSpace(r.text(key))
	if text == "" {
		return l
	}
	if _, err := decode([]byte("[" + text + "]")); err != nil {
		r.fail(key, "is no JSON: %w", err)
		return l
	}
	if err := json.Unmarshal([]byte("["+text+"]"), &l.raw); err != nil {
		r.fail(key, "is no JSON: %w", err)
		return l
	}
	for i, raw := range l.raw {
		if raw[0] == '[' {
			r.fail(key, "must be objects with commas between them, without brackets around")
			return l
		}
		m := into()
		if err := checkObject(raw, m); err != nil {
			r.fail(key, "has an element, number %d, which %w", i+1, err)
			return l
		}
		l.names = append(l.names, nameOf(m))
	}
	return l
}

func nameOf(m validator) string {
	if named, ok := m.(interface{ GetName() string }); ok {
		return named.GetName()
	}
	return ""
}

// conflict finds a name that is taken, or comes twice.
func (l list) conflict(proxy string, taken map[string]bool) error {
	for _, name := range l.names {
		if name == "" {
			continue
		}
		if taken[name] {
			return &ConfigError{Proxy: proxy, Key: l.key, Err: fmt.Errorf("names %q, which is taken: give it another name", name)}
		}
		taken[name] = true
	}
	return nil
}

// joined is the list as templates get it.
func joined(raw []json.RawMessage) string {
	texts := make([]string, len(raw))
	for i, r := range raw {
		texts[i] = string(r)
	}
	return strings.Join(texts, ",\n")
}
