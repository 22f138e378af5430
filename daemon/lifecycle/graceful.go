package lifecycle

import (
	"fmt"
	"net/http"
	"time"
)

// readyEvery is the pace at which Envoy is asked whether it is ready, while
// somebody waits for that.
const readyEvery = 100 * time.Millisecond

// gracefulHandler serves the two endpoints that applications and hooks of pods
// call. The paths are the proxy's to choose, and net/http's mux panics for some.
func (l *life) gracefulHandler(r *running) http.Handler {
	startup, shutdown := l.settings.GracefulPaths()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case shutdown:
			l.askEnd("graceful shutdown endpoint")
			w.WriteHeader(http.StatusOK)
		case startup:
			l.startup(w, req, r)
		default:
			http.NotFound(w, req)
		}
	})
}

// startup answers when Envoy is ready or the startup grace, counted from the
// process's registration, is over. The answer is 200 either way: an application
// that waits for its proxy starts in the end.
func (l *life) startup(w http.ResponseWriter, req *http.Request, r *running) {
	grace := time.Duration(l.settings.StartupGraceSeconds) * time.Second
	allow(w, grace)
	for {
		err := error(nil)
		if grace > 0 {
			err = l.ask(req.Context(), r, http.MethodGet, "/ready")
		}
		if err == nil {
			_, _ = fmt.Fprintln(w, "ready")
			return
		}
		if time.Since(l.began) >= grace {
			_, _ = fmt.Fprintf(w, "not ready, and the startup grace of %d s is over\n", l.settings.StartupGraceSeconds)
			return
		}
		if !sleep(req.Context(), readyEvery) {
			return
		}
	}
}
