package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// quietAtMost is how long lictord may say nothing in the middle of an answer. It
// is longer than its own limit of 30 s for one, so that its reason arrives.
const quietAtMost = 35 * time.Second

// client connects to the daemon.
func (a *app) client() *v1.Client { return v1.NewClient(a.socket) }

// ask makes a call of the daemon, and tells of the time that it takes.
func ask[T any](a *app, call func(*v1.Client) (T, error)) (answer T, err error) {
	client := a.client()
	defer client.Close()
	err = a.await("lictord", func() (err error) {
		answer, err = call(client)
		return err
	})
	return answer, err
}

// await does something that lictord, or whoever it is, may take long for, as
// lictord does on a slow disk, and tells of the time meanwhile.
func (a *app) await(whom string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	progress := a.progress("waiting for " + whom)
	defer progress.end()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			progress.say(span(a.now().Sub(progress.began)))
		}
	}
}

// readJournal gives show the events after since that there are, in order. While
// lictord says nothing it tells of the time, and in the end gives up.
func (a *app) readJournal(ctx context.Context, since uint64, show func(v1.JournalEvent) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := a.client()
	defer client.Close()
	events, done := make(chan v1.JournalEvent), make(chan error, 1) // in step; one value, never blocks
	go func() {
		done <- client.Journal(ctx, since, false, func(event v1.JournalEvent) error {
			select {
			case events <- event:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	limit := cmp.Or(a.quiet, quietAtMost)
	progress := a.progress("waiting for lictord")
	defer func() { progress.end() }()
	for {
		select {
		case event := <-events:
			progress.end()
			if err := show(event); err != nil {
				return err
			}
			progress = a.progress("waiting for lictord") // anew: how long show took is not lictord's doing
		case err := <-done:
			return err
		case <-tick.C:
			quiet := a.now().Sub(progress.began)
			if quiet >= limit {
				return fmt.Errorf("lictord at %s has said nothing for %s; is it stopped or overloaded? see its log", a.socket, span(quiet))
			}
			progress.say(span(quiet))
		}
	}
}
