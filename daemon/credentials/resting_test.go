package credentials

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A token lacks rights, and the login that may help fails: the token in hand
// stays, and the next login is due when the servers say again that it lacks
// them. Until then nothing is, and the worker rests.
func TestRestsWithoutRights(t *testing.T) {
	testenv.Files(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.open()
		r.consul.params = &catalog.Problem{Sentence: "may not read its service", Err: fmt.Errorf("%w: Permission denied", catalog.ErrToken)}
		r.login("web")
		w := newWorker(r.m, "web", r.book.proxy("web"))
		defer w.closeDir()
		steps := func(d time.Duration) (n int) {
			for end := time.Now().Add(d); time.Now().Before(end); n++ {
				time.Sleep(w.step(t.Context()))
			}
			return n
		}
		steps(30 * time.Second)
		away := errors.New("no server answers")
		r.consul.set(func(s *servers) { s.refuse, s.params = away, away })
		if n := steps(10 * time.Minute); n > 100 {
			t.Errorf("%d steps in 10 minutes", n)
		}
		r.wantState("web", state.CredentialRefused)
		r.consul.set(func(s *servers) { s.refuse, s.params = nil, nil })
		steps(2 * retryMost)
		r.wantState("web", state.CredentialOK)
	})
}
