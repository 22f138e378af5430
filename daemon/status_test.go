package daemon

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// Status says since when there is no contact with Consul.
func TestSinceWhenThereIsNoContact(t *testing.T) {
	started := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for name, test := range map[string]struct {
		contact  catalog.Status
		since    time.Time
		sentence string // "" for none
	}{
		"not asked yet": {},
		"in contact":    {contact: catalog.Status{LastContact: started.Add(time.Minute)}},
		"at the start": {
			catalog.Status{Problem: "it is silent", Since: started.Add(2 * time.Second)}, started,
			"No contact with Consul since lictord was started at 2026-03-01 12:00:00; servers that are known stay in force: it is silent",
		},
		"later": {
			catalog.Status{Problem: "it is silent", Since: started.Add(time.Hour), LastContact: started.Add(time.Hour - time.Second)},
			started.Add(time.Hour),
			"No contact with Consul since 2026-03-01 13:00:00; servers that are known stay in force: it is silent",
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := v1.Status{Started: started}
			consulStatus(&st, test.contact)
			if got := strings.Join(st.Problems, "\n"); got != test.sentence {
				t.Errorf("it says %q, want %q", got, test.sentence)
			}
			if c := st.Consul; !c.NoContact.Equal(test.since) || !c.LastContact.Equal(test.contact.LastContact) {
				t.Errorf("no contact since %v, last at %v; want %v and %v", c.NoContact, c.LastContact, test.since, test.contact.LastContact)
			}
		})
	}
}

// A registry that does not answer costs status two seconds, and what it alone
// knows.
func TestStatusOfAStuckRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry.New(registry.Config{State: state.New(), Maps: new(kernel.Kernel), Logger: slog.New(slog.DiscardHandler)}) // and nobody runs it
		var st v1.Status
		began := time.Now()
		err := backend{&Daemon{registry: r}}.proxyStatus(t.Context(), &st)
		if err != nil || time.Since(began) != 2*time.Second || !strings.Contains(strings.Join(st.Problems, ""), "does not get to its own state") {
			t.Errorf("after %v: %v, %q", time.Since(began), err, st.Problems)
		}
	})
}
