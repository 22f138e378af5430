package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// moment is a point of the journal.
type moment struct {
	bySeq bool
	seq   uint64
	time  time.Time
}

// parseMoment reads --at.
func (a *app) parseMoment(text string) (moment, error) {
	if text == "" {
		return moment{}, errors.New("lictor journal state needs --at with a sequence number or a time")
	}
	if seq, err := strconv.ParseUint(text, 10, 64); err == nil {
		return moment{bySeq: true, seq: seq}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return moment{time: at}, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, a.zone); err == nil {
			return moment{time: at}, nil
		}
	}
	return moment{}, fmt.Errorf("--at %q is neither a sequence number nor a time such as %q or %q",
		text, "2026-03-01 12:00:00", "2026-03-01T12:00:00Z")
}

// errEnough ends the reading of a stream.
var errEnough = errors.New("enough was read")

// stateOnline folds the events that lictord tells, which is possible as long as
// it keeps them from the first on.
func (j *journalApp) stateOnline(ctx context.Context, when moment) (state.State, error) {
	progress := j.progress("reading from lictord")
	defer progress.end()
	client := j.client()
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return state.State{}, fmt.Errorf("another process has the journal open, and lictord could not be asked: %w", err)
	}
	if status.Journal.Oldest > 1 {
		return state.State{}, fmt.Errorf("lictord has the journal open and keeps events from %d on only, "+
			"which does not give a state from outside; stop it, redirects go on meanwhile, and run the command again",
			status.Journal.Oldest)
	}
	if when.bySeq && when.seq > status.Journal.Seq {
		return state.State{}, fmt.Errorf("event %d is yet to come; the newest is %d", when.seq, status.Journal.Seq)
	}
	s := state.New()
	err = client.Journal(ctx, 0, false, func(line v1.JournalEvent) error {
		if when.bySeq && line.Seq > when.seq || !when.bySeq && line.Time.After(when.time) {
			return errEnough
		}
		raw, err := json.Marshal(line)
		if err != nil {
			return err
		}
		var event state.Event
		if err := json.Unmarshal(raw, &event); err != nil {
			return fmt.Errorf("%w; is lictord of another version than lictor?", err)
		}
		progress.at(int64(line.Seq), int64(status.Journal.Seq))
		s = state.Fold(s, event)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return s, err
}

// showState shows the servers and proxies of a state.
func (j *journalApp) showState(s state.State) {
	if s.Seq == 0 {
		j.printf("nothing had happened yet\n")
		return
	}
	j.printf("after event %d, of %s\n\n", s.Seq, j.clock(s.Time))
	t := table{heads: []string{"SERVER", "ADDRESS", "ADDRESS6", "PORT", "VERSION", "DRAINED BY", "SINCE"}}
	for _, id := range slices.Sorted(maps.Keys(s.Servers)) {
		server := s.Servers[id]
		addr4, addr6 := "", ""
		if server.Addr4.IsValid() {
			addr4 = server.Addr4.String()
		}
		if server.Addr6.IsValid() {
			addr6 = server.Addr6.String()
		}
		t.add(id, addr4, addr6, server.Port, server.Version, s.Drained[id].By, j.clock(server.Since))
	}
	j.printTable(t, "no servers")
	j.printf("\n")
	t = table{heads: []string{"PROXY", "NODE", "NAMESPACE", "PARTITION", "VIP", "VIP6", "OWNER", "SERVERS", "REASON", "PLACED", "REGISTERED"}}
	for _, id := range slices.Sorted(maps.Keys(s.Proxies)) {
		p := s.Proxies[id]
		vip, vip6 := "", ""
		if p.VIP.IsValid() {
			vip = p.VIP.String()
		}
		if p.VIP6.IsValid() {
			vip6 = p.VIP6.String()
		}
		t.add(id, p.Node, p.Namespace, p.Partition, vip, vip6, words(string(p.Owner.Kind), p.Owner.Path),
			strings.Join(p.Ranked, ","), p.Reason, j.clock(p.Placed), j.clock(p.Registered))
	}
	j.printTable(t, "no proxies")
}

// printTable prints a table, or what an empty one means.
func (a *app) printTable(t table, empty string) {
	if len(t.rows) == 0 {
		a.printf("%s\n", empty)
		return
	}
	t.print(a.stdout)
}
