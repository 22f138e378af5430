package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// wireState is the JSON form of a State: what snapshots hold and what
// `lictor journal state` prints. Lists are sorted by id, so equal states have
// equal bytes.
type wireState struct {
	Seq       uint64                 `json:"seq"`
	Time      time.Time              `json:"time,omitzero"`
	Servers   []*Server              `json:"servers"`
	Drained   map[string]Drain       `json:"drained,omitempty"`
	Proxies   []*Proxy               `json:"proxies"`
	Resting   map[uint32]time.Time   `json:"resting,omitempty"`
	LastIndex uint32                 `json:"last_index,omitempty"`
	Slots     map[string]SlotTenure  `json:"slots,omitempty"`
	Logins    map[string]LoginRecord `json:"logins,omitempty"`
	Swept     time.Time              `json:"swept,omitzero"`
}

// MarshalJSON returns the state as one JSON object. Equal states give equal
// bytes.
func (s State) MarshalJSON() ([]byte, error) {
	w := wireState{
		Seq: s.Seq, Time: s.Time, Drained: s.Drained, Resting: s.Resting,
		LastIndex: s.LastIndex, Slots: s.Slots, Logins: s.Logins, Swept: s.Swept,
		Servers: make([]*Server, 0, len(s.Servers)),
		Proxies: make([]*Proxy, 0, len(s.Proxies)),
	}
	for _, id := range slices.Sorted(maps.Keys(s.Servers)) {
		w.Servers = append(w.Servers, s.Servers[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.Proxies)) {
		w.Proxies = append(w.Proxies, s.Proxies[id])
	}
	return json.Marshal(w)
}

// UnmarshalJSON is the inverse of MarshalJSON, see ReadState.
func (s *State) UnmarshalJSON(data []byte) error {
	read, err := ReadState(bytes.NewReader(data))
	if err == nil {
		*s = read
	}
	return err
}

// ReadState decodes what MarshalJSON wrote, a piece at a time, so that it needs
// little more memory than the state itself. It refuses unknown fields and an id
// that is there twice, see ErrUnknownField and ErrMalformed, and passes on an
// error of r; it does not Check.
func ReadState(r io.Reader) (State, error) {
	d := stateDecoder{dec: json.NewDecoder(r), s: New()}
	d.dec.DisallowUnknownFields()
	if err := d.object(); err != nil {
		return State{}, fmt.Errorf("decode state: %w", strict(err))
	}
	if _, err := d.dec.Token(); err != io.EOF {
		return State{}, fmt.Errorf("decode state: %w: something follows the JSON object", ErrMalformed)
	}
	if d.s.Drained == nil || d.s.Resting == nil || d.s.Slots == nil || d.s.Logins == nil { // a null makes a map nil
		return State{}, fmt.Errorf("decode state: %w: null where an object should be", ErrMalformed)
	}
	return d.s, nil
}

// stateDecoder walks through the JSON of a state.
type stateDecoder struct {
	dec *json.Decoder
	s   State
}

func (d *stateDecoder) delim(want json.Delim) error {
	got, err := d.dec.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v where %v should be", got, want)
	}
	return err
}

func (d *stateDecoder) object() error {
	if err := d.delim('{'); err != nil {
		return err
	}
	for d.dec.More() {
		name, err := d.dec.Token()
		if err == nil {
			err = d.field(name)
		}
		if err != nil {
			return err
		}
	}
	return d.delim('}')
}

func (d *stateDecoder) field(name json.Token) error {
	switch name {
	case "seq":
		return d.dec.Decode(&d.s.Seq)
	case "time":
		return d.dec.Decode(&d.s.Time)
	case "servers":
		return each(d, func(server *Server) string {
			return put(d.s.Servers, server.ID, server)
		})
	case "drained":
		return d.dec.Decode(&d.s.Drained)
	case "proxies":
		return each(d, func(p *Proxy) string {
			d.s.used[p.Index]++
			p.share()
			return put(d.s.Proxies, p.ID, p)
		})
	case "resting":
		return d.dec.Decode(&d.s.Resting)
	case "last_index":
		return d.dec.Decode(&d.s.LastIndex)
	case "slots":
		return d.dec.Decode(&d.s.Slots)
	case "logins":
		return d.dec.Decode(&d.s.Logins)
	case "swept":
		return d.dec.Decode(&d.s.Swept)
	}
	return fmt.Errorf("%w %q", ErrUnknownField, name)
}

// each decodes a list. add says what is wrong with an element, or "".
func each[T any](d *stateDecoder, add func(*T) string) error {
	if err := d.delim('['); err != nil {
		return err
	}
	for n := 0; d.dec.More(); n++ {
		var element *T
		if err := d.dec.Decode(&element); err != nil {
			return err
		}
		problem := "it is null"
		if element != nil {
			problem = add(element)
		}
		if problem != "" {
			return fmt.Errorf("element %d: %s", n, problem)
		}
	}
	return d.delim(']')
}

func put[T any](m map[string]*T, id string, element *T) string {
	if m[id] != nil {
		return fmt.Sprintf("%q is there twice", id)
	}
	m[id] = element
	return ""
}
