package credentials

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/lictor-mesh/lictor/daemon/bootstrap"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

// open opens the process's view of files and its directory, when they are not
// those of the registration yet.
func (w *worker) open(p state.Proxy) error {
	if w.opened != nil && w.opened.Process.Equal(p.Process) && secretsDir(*w.opened) == secretsDir(p) {
		return nil
	}
	if w.opened != nil && secretsDir(*w.opened) != secretsDir(p) {
		if err := w.removeDir(*w.opened); err != nil {
			w.m.log.Warn("secrets cannot be removed", "proxy", w.id, "err", err)
		}
	}
	w.closeDir()
	var err error
	if p.Process != nil {
		w.view, err = secrets.OfProcess(*p.Process, w.m.cfg.BootID)
	} else {
		w.view, err = secrets.Host(w.id)
	}
	if err != nil {
		return err
	}
	if dir := secretsDir(p); dir != "" {
		w.dir, err = w.view.Dir(dir)
	} else {
		w.dir, err = w.m.cfg.Base.Dir(w.id, w.view.Owner())
	}
	if err != nil {
		err = errors.Join(err, w.view.Close())
		w.view = nil
		return err
	}
	w.opened, w.token, w.checkAt = &p, "", time.Now()
	if w.dir.Has(reopenFile) {
		w.reopenSoon()
	}
	return nil
}

func secretsDir(p state.Proxy) string {
	if p.Envoy == nil {
		return ""
	}
	return p.Envoy.SecretsDir
}

// reopenFile is there from when a token is about to be swapped until the streams
// that began with the former one are closed: a daemon that starts meanwhile goes
// on with that.
const reopenFile = "streams-to-close"

// writeToken makes the token's file hold it. An Envoy that may have a former one
// is to open a new stream, once it has read the file.
func (w *worker) writeToken(token string) error {
	if token == w.token && token != "" && w.dir.Has(bootstrap.TokenFile) {
		return nil
	}
	if token == "" {
		return w.dir.Forget(bootstrap.TokenFile)
	}
	doc, err := bootstrap.TokenSecret(token)
	if err != nil {
		return err
	}
	former := w.dir.Has(bootstrap.TokenFile)
	marked := false
	if former {
		if marked, err = w.dir.Write(reopenFile, nil); err != nil {
			return err
		}
	}
	changed, err := w.dir.Write(bootstrap.TokenFile, doc)
	if err != nil {
		return err
	}
	if w.token != token {
		w.token, w.checkAt = token, time.Now()
	}
	switch {
	case changed && former:
		w.reopenSoon()
	case marked: // it was the same one
		return w.dir.Forget(reopenFile)
	}
	return nil
}

// reopenSoon has streams closed when Envoy has had the time to read the file: not
// those of all proxies at the same moment.
func (w *worker) reopenSoon() {
	if w.openAt.IsZero() {
		w.openAt = time.Now().Add(settle + rand.N(settle/2))
	}
}

// remove takes the proxy's files away, and the worker off the list.
func (w *worker) remove(ctx context.Context, p state.Proxy) {
	if w.opened == nil {
		w.opened = &p
	}
	if err := w.removeDir(*w.opened); err != nil {
		w.m.log.Warn("secrets cannot be removed", "proxy", w.id, "err", err)
	}
	if err := w.m.dropGiven(ctx, w.id); err != nil && ctx.Err() == nil {
		w.m.log.Warn("a sealed secret cannot be removed", "proxy", w.id, "err", err)
	}
	w.m.mu.Lock()
	delete(w.m.workers, w.id)
	w.m.mu.Unlock()
	w.m.Wake() // for one that was registered meanwhile
}

func (w *worker) removeDir(p state.Proxy) error {
	if secretsDir(p) == "" {
		return w.m.cfg.Base.Remove(w.id)
	}
	if w.dir == nil {
		return nil // never opened, or the process that saw it has ended
	}
	return w.dir.Remove(bootstrap.TokenFile, bootstrap.CAFile, bootstrap.ClientFile, bootstrapFile, reopenFile)
}

// bootstrapFile is where lictor exec puts the bootstrap, beside what it refers
// to.
const bootstrapFile = "bootstrap.json"

func (w *worker) closeDir() {
	var errs []error
	if w.dir != nil {
		errs = append(errs, w.dir.Close())
	}
	if w.view != nil {
		errs = append(errs, w.view.Close())
	}
	w.dir, w.view, w.opened = nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		w.m.log.Warn("directory of secrets cannot be closed", "proxy", w.id, "err", err)
	}
}
