package registry

import (
	"errors"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func runBy(uid uint32) Request {
	req := request("a")
	req.UID = uid
	req.Envoy = &state.EnvoySettings{AdminBind: "127.0.0.1:19001"}
	req.Credential = &state.Credential{Type: state.CredentialStatic}
	req.Process = &state.Process{PID: 77, Start: 1000, BootID: "boot-1", UID: uid, GID: uid}
	return req
}

func TestSettings(t *testing.T) {
	gone := func(state.Process) bool { return true }
	for _, tc := range []struct {
		name     string
		change   func(*Request)
		conflict bool
		journals bool
		check    func(p *state.Proxy) bool
	}{
		{"the same", func(*Request) {}, false, false, nil},
		{"nothing said", func(r *Request) { r.Envoy, r.Credential, r.Process = nil, nil, nil }, false, false, func(p *state.Proxy) bool {
			return p.Envoy != nil && p.Credential != nil && p.Process != nil
		}},
		{"another setting", func(r *Request) { r.Envoy = &state.EnvoySettings{ReadyBind: "x"} }, false, true, func(p *state.Proxy) bool {
			return p.Envoy.ReadyBind == "x" && p.Envoy.AdminBind == ""
		}},
		{"defaults", func(r *Request) { r.Envoy = &state.EnvoySettings{} }, false, true, func(p *state.Proxy) bool { return p.Envoy == nil }},
		{"no credential", func(r *Request) { r.Credential = &state.Credential{} }, false, true, func(p *state.Proxy) bool { return p.Credential == nil }},
		{"a restart", func(r *Request) { r.Process = &state.Process{PID: 77, Start: 2000, BootID: "boot-1", UID: 5995} }, false, true, func(p *state.Proxy) bool {
			return p.Process.Start == 2000
		}},
		{"no process, the former gone", func(r *Request) { r.Process, r.ProcessGone = nil, gone }, false, true, func(p *state.Proxy) bool { return p.Process == nil }},
		{"another user changes nothing", func(r *Request) { r.UID, r.Envoy, r.Credential, r.Process = 1, nil, nil, nil }, false, false, nil},
		{"another user, a setting", func(r *Request) { r.UID, r.Envoy = 1, &state.EnvoySettings{} }, true, false, nil},
		{"another user, a process", func(r *Request) {
			r.UID, r.Process = 1, &state.Process{PID: 78, Start: 2000, BootID: "boot-1", UID: 1}
		}, true, false, nil},
		{"root", func(r *Request) { r.UID, r.Envoy = 0, &state.EnvoySettings{} }, false, true, func(p *state.Proxy) bool { return p.Envoy == nil }},
		{"another owner inherits nothing", func(r *Request) {
			r.UID, r.Owner.ID, r.OwnerGone = 1, 7001, func(state.Owner) bool { return true }
			r.Envoy, r.Credential, r.Process = nil, nil, nil
		}, false, true, func(p *state.Proxy) bool { return p.Envoy == nil && p.Credential == nil && p.Process == nil }},
		{"another owner brings its own", func(r *Request) {
			r.UID, r.Owner.ID, r.Override = 0, 7001, true
			r.Process = &state.Process{PID: 99, Start: 1, BootID: "boot-1"}
			r.Credential = &state.Credential{Type: state.CredentialFile, TokenFile: "/t"}
		}, false, true, func(p *state.Proxy) bool { return p.Process.PID == 99 && p.Credential.TokenFile == "/t" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				v, err := h.r.Register(t.Context(), runBy(5995))
				if err != nil || v.Credential == nil || v.Envoy == nil || v.Process == nil {
					t.Fatalf("Register() = %+v, %v", v, err)
				}
				before := h.journal.count()
				req := runBy(5995)
				tc.change(&req)
				_, err = h.r.Register(t.Context(), req)
				if errors.Is(err, ErrIdentity) != tc.conflict || !tc.conflict && err != nil {
					t.Fatalf("Register: %v", err)
				}
				if journaled := h.journal.count() > before; journaled != tc.journals {
					t.Errorf("journaled: %t", journaled)
				}
				if tc.check != nil && !tc.check(h.proxy("a")) {
					t.Errorf("it is %+v", h.proxy("a"))
				}
				h.restart()
				if tc.check != nil && !tc.check(h.proxy("a")) {
					t.Errorf("after a restart it is %+v", h.proxy("a"))
				}
			})
		})
	}
}

// What root registered with a credential is root's to change.
func TestSettingsOfRoot(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		req := runBy(0)
		req.Process = nil
		if _, err := h.r.Register(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if _, err := h.r.Register(t.Context(), runBy(5995)); !errors.Is(err, ErrIdentity) {
			t.Errorf("another user became the proxy and would be handed its token: %v", err)
		}
	})
}

func TestRelease(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		req := runBy(5995)
		if _, err := h.r.Register(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		former := *req.Process
		req.Process = &state.Process{PID: 78, Start: 2000, BootID: "boot-1", UID: 5995}
		if _, err := h.r.Register(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		for _, p := range []state.Process{former, *req.Process, *req.Process} {
			if err := h.r.Release(t.Context(), "a", p); err != nil {
				t.Fatal(err)
			}
			if there := h.snapshot().State.Proxies["a"] != nil; there != p.Equal(&former) {
				t.Errorf("after the end of %+v: registered %t", p, there)
			}
		}
		h.stop()
		events := h.events()
		last, ok := events[len(events)-1].Body.(state.ProxyDeregistered)
		if !ok || last.Reason != state.LeaveProcessGone {
			t.Errorf("last event %+v", events[len(events)-1])
		}
	})
}

func TestNotes(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.mustRegister("a")
		in := state.LoggedIn{ID: "a", Accessor: "t1", AuthMethod: "m", Key: "k1", Expires: time.Now().Add(time.Hour).UTC()}
		ok := state.CredentialChanged{ID: "a", State: state.CredentialOK}
		before := h.journal.count()
		for range 2 { // the second time nothing is new
			for _, fact := range []state.Body{in, ok, state.CredentialChanged{ID: "nobody", State: state.CredentialOK}} {
				if err := h.r.Note(t.Context(), fact); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := h.journal.count() - before; n != 2 {
			t.Errorf("%d syncs, want one for each fact", n)
		}
		views, err := h.r.Views(t.Context(), "a")
		if err != nil || views[0].CredentialState != state.CredentialOK || !views[0].Expires.Equal(in.Expires) {
			t.Errorf("Views() = %+v, %v", views, err)
		}
		h.mustDeregister("a")
		h.restart()
		if _, there := h.snapshot().State.Logins["t1"]; !there {
			t.Error("the token is forgotten with its proxy")
		}
		for range 2 {
			if err := h.r.Note(t.Context(), state.LoggedOut{ID: "a", Accessor: "t1"}); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(h.snapshot().State.Logins); n != 0 {
			t.Errorf("%d tokens are still to be deleted", n)
		}
		if err := h.r.Note(t.Context(), state.ServerGone{ID: "s1"}); err == nil {
			t.Error("another fact was taken")
		}
		h.sick(func() error { return errDiskFull })
		if err := h.r.Note(t.Context(), in); !errors.Is(err, ErrNotDurable) {
			t.Errorf("Note() on a full disk = %v", err)
		}
		h.sick(nil)
		h.settle()
	})
}
