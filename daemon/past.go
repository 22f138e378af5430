package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
)

// StateAt implements server.Backend.
func (b backend) StateAt(ctx context.Context, seq uint64, at time.Time) ([]byte, error) {
	last := b.journal.Stats().Last
	if at.IsZero() && seq > last {
		return nil, fmt.Errorf("%w: event %d is yet to come; the newest is %d", server.ErrInvalid, seq, last)
	}
	var s state.State
	var err error
	if at.IsZero() {
		s, err = b.journal.StateAtSeq(ctx, seq)
	} else {
		s, err = b.journal.StateAtTime(ctx, at)
	}
	if err != nil {
		return nil, retained(err)
	}
	return json.Marshal(s)
}
