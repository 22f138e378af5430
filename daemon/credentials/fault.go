package credentials

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// errFault is when code of ours panicked.
var errFault = errors.New("lictord hit a fault of its own, which is in its log with a stack; please report it")

// caught does something for one proxy. A panic in it is errFault and that proxy's
// trouble: it does not end the daemon, which serves all others, and which would
// meet what caused it again after each restart.
func (m *Manager) caught(proxy string, do func() error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			m.log.Error("panic while looking after a proxy's credential", "proxy", proxy,
				"panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			err = errFault
		}
	}()
	return do()
}

// turn does a turn of the worker's, and says how long there is nothing to do.
func (w *worker) turn(ctx context.Context, do func() time.Duration) (next time.Duration) {
	err := w.m.caught(w.id, func() error { next = do(); return nil })
	if err == nil {
		return next
	}
	w.mu.Lock()
	p := w.reg
	w.mu.Unlock()
	return w.fail(ctx, p, &trouble{state: state.CredentialUnreadable, sentence: fmt.Sprintf("the files of the proxy %s: %v", w.id, err)})
}
