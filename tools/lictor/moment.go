package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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
	now := a.now().In(a.zone)
	for _, layout := range []string{"15:04:05", "15:04"} { // the last time that it was that late
		clock, err := time.ParseInLocation(layout, text, a.zone)
		if err != nil {
			continue
		}
		at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, a.zone)
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		return moment{time: at}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return moment{time: now.Add(-ago)}, nil
	}
	return moment{}, fmt.Errorf("--at %q is neither a sequence number nor a time such as %q, %q, %q (today or yesterday) or %q (ago)",
		text, "2026-03-01 12:00:00", "2026-03-01T12:00:00Z", "03:12", "90m")
}

// String is how lictord is asked for it.
func (m moment) String() string {
	if m.bySeq {
		return strconv.FormatUint(m.seq, 10)
	}
	return m.time.UTC().Format(time.RFC3339Nano)
}

// stateOnline asks lictord, which has the journal open.
func (j *journalApp) stateOnline(ctx context.Context, when moment) (s state.State, err error) {
	raw, err := ask(j.app, func(c *v1.Client) ([]byte, error) { return c.StateAt(ctx, when.String()) })
	var refusal *v1.ProblemError
	switch {
	case errors.As(err, &refusal):
		return s, err
	case err != nil:
		return s, fmt.Errorf("another process has the journal open, and lictord could not be asked: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("%w; is lictord of another version than lictor?", err)
	}
	return s, nil
}

// printTable prints a table, or what an empty one means.
func (a *app) printTable(t table, empty string) {
	if len(t.rows) == 0 {
		a.printf("%s\n", empty)
		return
	}
	t.print(a.stdout)
}
