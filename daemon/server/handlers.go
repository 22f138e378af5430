package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// apiHandler routes the API.
func (s *Server) apiHandler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/proxies/{id}", s.call(s.register))
	mux.HandleFunc("DELETE /v1/proxies/{id}", s.call(s.deregister))
	mux.HandleFunc("GET /v1/proxies", s.call(s.proxies))
	mux.HandleFunc("GET /v1/proxies/{id}", s.call(s.proxy))
	mux.HandleFunc("GET /v1/proxies/{id}/history", s.call(s.history))
	mux.HandleFunc("GET /v1/proxies/{id}/bootstrap", s.call(s.bootstrap))
	mux.HandleFunc("GET /v1/servers", s.call(s.servers))
	mux.HandleFunc("POST /v1/servers/{id}/drain", s.call(s.drain(true)))
	mux.HandleFunc("POST /v1/servers/{id}/undrain", s.call(s.drain(false)))
	mux.HandleFunc("GET /v1/fleet", s.call(s.fleet))
	mux.HandleFunc("GET /v1/status", s.call(s.status))
	mux.HandleFunc("GET /v1/state", s.call(s.state))
	mux.HandleFunc("GET /v1/journal", s.journal)
	mux.HandleFunc("GET /v1/connections", s.connections)
	return mux
}

// request is what a call is given, checked by itself.
type request struct {
	caller   Caller
	conn     *net.UnixConn
	id       string             // of the proxy or the server; "" where the path has none
	register v1.RegisterRequest // of a PUT
	fleet    bool               // of a drain: for every host
	at       string             // of a past state: sequence number or time
}

// raw is an answer that is JSON already.
type raw []byte

// call answers with what a handler returns: a value as JSON, nil as 204, an
// error as a problem document.
func (s *Server) call(handler func(context.Context, request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := readRequest(r)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		ctx, cancel := s.bounded(r)
		defer cancel()
		began := time.Now()
		result, err := handler(ctx, req)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.log.Debug("called", "method", r.Method, "path", r.URL.Path, "uid", req.caller.UID, "pid", req.caller.PID,
				"took_ms", time.Since(began).Milliseconds(), "done", err == nil)
		}
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		s.writeJSON(w, r, result)
	}
}

// readRequest reads and checks all that a request says.
func readRequest(r *http.Request) (request, error) {
	p, _ := peerOf(r.Context())
	req := request{caller: p.caller, conn: p.conn, id: r.PathValue("id")}
	if err := req.readQuery(r); err != nil {
		return req, err
	}
	if r.Method == http.MethodPut { // the only method with a body
		if err := readBody(r, &req.register); err != nil {
			return req, err
		}
	} else if err := noBody(r); err != nil {
		return req, err
	}
	if req.id == "" {
		return req, nil
	}
	what := "proxy id"
	if strings.HasPrefix(r.URL.Path, "/v1/servers/") {
		what = "server id"
	}
	return req, invalid(v1.CheckID(what, req.id))
}

// readQuery reads a request's query: only a POST, which drains, and a past state
// have one.
func (req *request) readQuery(r *http.Request) error {
	var allowed []string
	switch {
	case r.Method == http.MethodPost:
		allowed = []string{"fleet"}
	case r.URL.Path == "/v1/state":
		allowed = []string{"at"}
	}
	query, err := params(r, allowed...)
	if err == nil {
		req.at = query.Get("at")
		req.fleet, err = paramBool(query, "fleet")
	}
	return err
}

// invalid marks an error as the request's, nil staying nil.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, err)
}

func (s *Server) register(ctx context.Context, req request) (any, error) {
	if err := invalid(req.register.Check()); err != nil {
		return nil, err
	}
	if req.register.OwnerGiven() {
		if err := req.caller.mayOperate("registering for another owner than one's own network namespace"); err != nil {
			return nil, err
		}
	} else if req.caller.NetnsCookie == 0 || req.caller.NetnsInode == 0 {
		return nil, fmt.Errorf("the kernel does not tell which network namespace calls; "+
			"run lictord with CAP_NET_ADMIN on Linux 5.15 or later, or name the owner: %w", ErrUnavailable)
	}
	if req.register.Process {
		start, err := startOf(req.conn, int(req.caller.PID))
		if err != nil {
			return nil, err
		}
		req.caller.Start = start
	}
	return s.cfg.Backend.Register(ctx, req.caller, req.id, req.register)
}

// deregister looks up whose the proxy is; the backend asks MayUse again under its
// one writer, where the answer cannot change meanwhile.
func (s *Server) deregister(ctx context.Context, req request) (any, error) {
	if !req.caller.root() {
		proxy, err := s.cfg.Backend.Proxy(ctx, req.id)
		if errors.Is(err, ErrNotFound) {
			return nil, nil // absent is success
		}
		if err == nil {
			err = req.caller.MayUse(proxy.ProxyID, proxy.Owner)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, s.cfg.Backend.Deregister(ctx, req.caller, req.id)
}

func (s *Server) proxies(ctx context.Context, req request) (any, error) {
	all, err := s.cfg.Backend.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	seen := v1.Proxies{Proxies: []v1.Proxy{}} // an empty list is [], not null
	for _, proxy := range all {
		if req.caller.MayUse(proxy.ProxyID, proxy.Owner) == nil {
			seen.Proxies = append(seen.Proxies, proxy)
		}
	}
	return seen, nil
}

func (s *Server) proxy(ctx context.Context, req request) (any, error) {
	proxy, err := s.cfg.Backend.Proxy(ctx, req.id)
	if err == nil {
		err = req.caller.MayUse(proxy.ProxyID, proxy.Owner)
	}
	return proxy, err
}

func (s *Server) history(ctx context.Context, req request) (any, error) {
	if !req.caller.root() { // root also reads of proxies that have gone
		if _, err := s.proxy(ctx, req); err != nil {
			return nil, err
		}
	}
	history, err := s.cfg.Backend.History(ctx, req.id)
	if history.Events == nil {
		history.Events = []v1.JournalEvent{}
	}
	return history, err
}

func (s *Server) bootstrap(ctx context.Context, req request) (any, error) {
	if _, err := s.proxy(ctx, req); err != nil {
		return nil, err
	}
	document, err := s.cfg.Backend.Bootstrap(ctx, req.caller, req.id)
	return raw(document), err
}

func (s *Server) servers(ctx context.Context, _ request) (any, error) {
	servers, err := s.cfg.Backend.Servers(ctx)
	if servers == nil {
		servers = []v1.Server{}
	}
	return v1.Servers{Servers: servers}, err
}

func (s *Server) drain(drained bool) func(context.Context, request) (any, error) {
	return func(ctx context.Context, req request) (any, error) {
		if err := req.caller.mayOperate("draining servers"); err != nil {
			return nil, err
		}
		return nil, s.cfg.Backend.Drain(ctx, req.caller, req.id, drained, req.fleet)
	}
}

// fleet is for root, as each call asks Consul with the daemon's token.
func (s *Server) fleet(ctx context.Context, req request) (any, error) {
	if err := req.caller.mayOperate("asking for the fleet"); err != nil {
		return nil, err
	}
	fleet, err := s.cfg.Backend.Fleet(ctx)
	if fleet.Hosts == nil {
		fleet.Hosts = []v1.FleetHost{}
	}
	if fleet.Drains == nil {
		fleet.Drains = []v1.FleetDrain{}
	}
	return fleet, err
}

func (s *Server) state(ctx context.Context, req request) (any, error) {
	if err := req.caller.mayOperate("reading past states"); err != nil {
		return nil, err
	}
	if seq, err := strconv.ParseUint(req.at, 10, 64); err == nil {
		document, err := s.cfg.Backend.StateAt(ctx, seq, time.Time{})
		return raw(document), err
	}
	at, err := time.Parse(time.RFC3339Nano, req.at)
	if err != nil {
		return nil, fmt.Errorf("query parameter at is %q; it is a sequence number of the journal or a time as in RFC 3339: %w", req.at, errMalformed)
	}
	document, err := s.cfg.Backend.StateAt(ctx, 0, at)
	return raw(document), err
}

func (s *Server) status(ctx context.Context, _ request) (any, error) {
	return s.currentStatus(ctx)
}

// currentStatus is the backend's status with no list left null.
func (s *Server) currentStatus(ctx context.Context) (v1.Status, error) {
	status, err := s.cfg.Backend.Status(ctx)
	if status.Problems == nil {
		status.Problems = []string{}
	}
	if status.Pools == nil {
		status.Pools = []string{}
	}
	return status, err
}
