package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// wireState is the JSON form of a State: what snapshots hold and what
// `lictor journal state` prints. Lists are sorted by id, so equal states have
// equal bytes.
type wireState struct {
	Seq       uint64                `json:"seq"`
	Time      time.Time             `json:"time,omitzero"`
	Servers   []*Server             `json:"servers"`
	Drained   map[string]Drain      `json:"drained,omitempty"`
	Proxies   []*Proxy              `json:"proxies"`
	Resting   map[uint32]time.Time  `json:"resting,omitempty"`
	LastIndex uint32                `json:"last_index,omitempty"`
	Slots     map[string]SlotTenure `json:"slots,omitempty"`
	Swept     time.Time             `json:"swept,omitzero"`
}

// MarshalJSON returns the state as one JSON object. Equal states give equal
// bytes.
func (s State) MarshalJSON() ([]byte, error) {
	w := wireState{
		Seq: s.Seq, Time: s.Time, Drained: s.Drained, Resting: s.Resting,
		LastIndex: s.LastIndex, Slots: s.Slots, Swept: s.Swept,
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

// UnmarshalJSON is the inverse of MarshalJSON. It refuses unknown fields and an
// id that is there twice, see ErrUnknownField and ErrMalformed; it does not
// Check.
func (s *State) UnmarshalJSON(data []byte) error {
	var w wireState
	if err := decodeStrict(data, &w); err != nil {
		return fmt.Errorf("decode state: %w", err)
	}
	n := New()
	n.Seq, n.Time, n.LastIndex, n.Swept = w.Seq, w.Time, w.LastIndex, w.Swept
	maps.Copy(n.Drained, w.Drained)
	maps.Copy(n.Resting, w.Resting)
	maps.Copy(n.Slots, w.Slots)
	for i, server := range w.Servers {
		if server == nil || n.Servers[server.ID] != nil {
			return fmt.Errorf("decode state: server %d is null or there twice: %w", i, ErrMalformed)
		}
		n.Servers[server.ID] = server
	}
	for i, p := range w.Proxies {
		if p == nil || n.Proxies[p.ID] != nil {
			return fmt.Errorf("decode state: proxy %d is null or there twice: %w", i, ErrMalformed)
		}
		n.Proxies[p.ID] = p
		n.used[p.Index]++
	}
	*s = n
	return nil
}
