package journal

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

// The history of one proxy goes from one of its events to the one before it. All
// others are made unreadable here: who read one of them would get an error.
func TestHistoryReadsNoOtherEvent(t *testing.T) {
	j, _, err := Open(context.Background(), t.TempDir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	var wanted []uint64
	for n := range 1000 {
		id := fmt.Sprint("other-", n%10)
		if n%100 == 7 {
			id = "one"
		}
		events, err := j.Append(state.Placed{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		if id == "one" {
			wanted = append(wanted, events[0].Seq)
		}
	}
	spoil := func(tx *bbolt.Tx) error {
		left := wanted
		for seq := uint64(1); seq <= j.Stats().Last; seq++ {
			if len(left) > 0 && seq == left[0] {
				left = left[1:]
			} else if err := tx.Bucket([]byte(bucketEvents)).Put(key(seq), []byte("unreadable")); err != nil {
				return err
			}
		}
		return nil
	}
	if err := j.update(spoil); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{0, 3} {
		want := wanted
		if limit > 0 {
			want = wanted[len(wanted)-limit:]
		}
		events, err := j.History("one", limit)
		if err != nil || len(events) != len(want) {
			t.Fatalf("history of at most %d: %d events, want %d: %v", limit, len(events), len(want), err)
		}
		for i, e := range events {
			if e.Seq != want[i] || e.Body.ProxyID() != "one" {
				t.Errorf("event %d of %s, want %d", e.Seq, e.Body.ProxyID(), want[i])
			}
		}
	}
	if events, err := j.History("nobody", 0); err != nil || len(events) != 0 {
		t.Errorf("history of nobody: %d events, %v", len(events), err)
	}
	if _, err := j.History("other-1", 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("what was made unreadable can be read: %v", err)
	}
}

// Two ids may have the same hash, and so one chain: each history has its own
// events. A chain that does not go back is damage, and no endless way.
func TestHistoryBelievesNoChain(t *testing.T) {
	j, _, err := Open(context.Background(), t.TempDir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	for range 3 {
		if _, err := j.Append(state.Placed{ID: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	second := func(id string, prev uint64) error {
		r := record{seq: 2, kind: state.KindPlaced, proxy: hashID("one"), prev: prev, body: []byte(`{"id":"` + id + `","ranked":[],"reason":""}`)}
		return j.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketEvents)).Put(key(2), r.encode()) })
	}
	if err := second("its twin", 1); err != nil {
		t.Fatal(err)
	}
	events, err := j.History("one", 2)
	if err != nil || len(events) != 2 || events[0].Seq != 1 || events[1].Seq != 3 {
		t.Errorf("history beside a twin's: %+v, %v", events, err)
	}
	for _, prev := range []uint64{2, 3} {
		if err := second("one", prev); err != nil {
			t.Fatal(err)
		}
		if _, err := j.History("one", 0); !errors.Is(err, ErrDamaged) {
			t.Errorf("event 2 says that the one before it is %d: %v", prev, err)
		}
	}
}
