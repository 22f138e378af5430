package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

func init() { reexec.Handle("app", appMain) }

// AppOptions of an application.
type AppOptions struct {
	Addr string // default 127.0.0.1:8080
	Text string // the body of its answers; default "hello from NODE\n"
}

// StartApp starts an HTTP server on the node that answers every request with a
// text, and waits until it listens. `/slow?for=2s` takes that long, `/metrics`
// is one for Prometheus, `app_up`.
func (n *Node) StartApp(ctx context.Context, o AppOptions) (*Process, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:8080"
	}
	if o.Text == "" {
		o.Text = "hello from " + n.Name + "\n"
	}
	arg, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p, err := n.Start(Command{Name: "app", Path: reexec.Path, Argv0: reexec.Argv0("app"), Args: []string{string(arg)}})
	if err != nil {
		return nil, err
	}
	return p, until(ctx, p.Name+" listens", func() error {
		if err := p.ended(); err != nil {
			return err
		}
		conn, err := n.DialContext(ctx, "tcp", o.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func appMain() error {
	var o AppOptions
	if err := json.Unmarshal([]byte(os.Args[1]), &o); err != nil {
		return fmt.Errorf("read options: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, o.Text) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		wait, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(wait)
		fmt.Fprint(w, o.Text)
	})
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE app_up gauge\napp_up 1\n")
	})
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return err
	}
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}
