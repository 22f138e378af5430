package state_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func TestDecodeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want error
	}{
		"unknown kind":           {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerMoved","data":{}}`, state.ErrUnknownKind},
		"unknown field":          {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone","data":{"id":"a","why":"b"}}`, state.ErrUnknownField},
		"unknown field of event": {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone","data":{"id":"a"},"host":"b"}`, state.ErrUnknownField},
		"no data":                {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone"}`, state.ErrMalformed},
		"null data":              {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone","data":null}`, state.ErrMalformed},
		"a list":                 {`[]`, state.ErrMalformed},
		"wrong type":             {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone","data":{"id":7}}`, state.ErrMalformed},
		"bad address":            {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerSeen","data":{"server":{"id":"a","slot":1,"addr4":"x","port":1}}}`, state.ErrMalformed},
		"port out of range":      {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerSeen","data":{"server":{"id":"a","slot":1,"port":65536}}}`, state.ErrMalformed},
		"unknown setting":        {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ProxyChanged","data":{"id":"a","envoy":{"color":"b"}}}`, state.ErrUnknownField},
		"unknown login field":    {`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ProxyChanged","data":{"id":"a","credential":{"type":"login","login":{"auth_method":"m","secret":"s"}}}}`, state.ErrUnknownField},
		"negative seq":           {`{"seq":-1,"time":"2026-01-02T03:04:05Z","kind":"ServerGone","data":{"id":"a"}}`, state.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			var e state.Event
			if err := json.Unmarshal([]byte(test.in), &e); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestDecodeStateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want error
	}{
		"unknown field":  {`{"seq":1,"servers":[],"proxies":[],"mood":"good"}`, state.ErrUnknownField},
		"a proxy twice":  {`{"seq":1,"servers":[],"proxies":[{"id":"a"},{"id":"a"}]}`, state.ErrMalformed},
		"a server twice": {`{"seq":1,"servers":[{"id":"a"},{"id":"a"}],"proxies":[]}`, state.ErrMalformed},
		"null logins":    {`{"seq":1,"logins":null}`, state.ErrMalformed},
		"no list":        {`{"seq":1,"servers":{},"proxies":[]}`, state.ErrMalformed},
		"a null map":     {`{"seq":1,"resting":null}`, state.ErrMalformed},
		"a null proxy":   {`{"seq":1,"servers":[],"proxies":[null]}`, state.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			var s state.State
			if err := json.Unmarshal([]byte(test.in), &s); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// A state and a body are all that there is: what follows is not passed over, and
// what ends too early is not taken for whole.
func TestDecodersReadToTheEnd(t *testing.T) {
	const whole, body = `{"seq":1,"servers":[],"proxies":[]}`, `{"id":"a"}`
	for _, tail := range []string{"{}", "x", "]"} {
		if _, err := state.ReadState(strings.NewReader(whole + tail)); !errors.Is(err, state.ErrMalformed) {
			t.Errorf("a state with %q behind it: %v", tail, err)
		}
		if _, err := state.DecodeBody(state.KindServerGone, []byte(body+tail)); !errors.Is(err, state.ErrMalformed) {
			t.Errorf("a body with %q behind it: %v", tail, err)
		}
	}
	for n := range len(whole) {
		if _, err := state.ReadState(strings.NewReader(whole[:n])); !errors.Is(err, state.ErrMalformed) {
			t.Errorf("a state that ends after %q: %v", whole[:n], err)
		}
	}
}

// Times are read as UTC, whatever zone they are written in.
func TestTimesAreUTC(t *testing.T) {
	var e state.Event
	if err := json.Unmarshal([]byte(`{"seq":1,"time":"2026-01-02T05:04:05+02:00","kind":"ServerGone","data":{"id":"a"}}`), &e); err != nil {
		t.Fatal(err)
	}
	if e.Time.Location() != time.UTC || !e.Time.Equal(epoch) {
		t.Errorf("got %s, want %s", e.Time, epoch)
	}
}

// TestEncodeRefuses: what is journaled must be the same when it is replayed.
func TestEncodeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		body state.Body
		want error
	}{
		"no body":               {nil, state.ErrMalformed},
		"no UTF-8":              {state.ServerGone{ID: "a\xffb"}, state.ErrMalformed},
		"a year of five digits": {state.Placed{ID: "a", At: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}, state.ErrMalformed},
		"U+FFFD itself":         {state.ServerGone{ID: "a\ufffdb"}, nil},
		"its escape as text":    {state.ServerGone{ID: `a\ufffdb`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := state.EncodeBody(test.body); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func FuzzEvent(f *testing.F) {
	for _, line := range []string{
		`{"seq":1,"time":"2026-01-02T03:04:05Z","kind":"ServerSeen","data":{"server":{"id":"s1","slot":1,"addr4":"10.0.0.1","addr6":"fd00::1","port":8502,"version":"1"},"at":"2026-01-02T03:04:05Z"}}`,
		`{"seq":2,"time":"2026-01-02T03:04:05.000000001Z","kind":"ProxyRegistered","data":{"proxy":{"id":"p","node":"n","namespace":"d","partition":"e","owner":{"kind":"cgroup","path":"/a","cookie":1,"inode":2,"level":3,"boot_id":"b"},"index":1,"vip":"239.77.0.1","vip6":"ff05::1"}}}`,
		`{"seq":3,"time":"2026-01-02T03:04:05+02:00","kind":"ProxyChanged","data":{"id":"p","owner":{"kind":"any"},"known":false}}`,
		`{"seq":4,"time":"2026-01-02T03:04:05Z","kind":"Placed","data":{"id":"p","ranked":["s1","s2"],"reason":"bounced"}}`,
		`{"seq":5,"time":"2026-01-02T03:04:05Z","kind":"ProxyDeregistered","data":{"id":"p","reason":"operator"}}`,
		`{"seq":6,"time":"2026-01-02T03:04:05Z","kind":"ServerDrained","data":{"id":"s1","by":"uid 0"}}`,
		`{"seq":7,"time":"2026-01-02T03:04:05Z","kind":"LoggedIn","data":{"id":"p","accessor":"a","auth_method":"m","datacenter":"d","namespace":"n","partition":"q","expires":"2026-01-02T03:04:05Z","key":"k"}}`,
		`{"seq":8,"time":"2026-01-02T03:04:05Z","kind":"LoggedOut","data":{"id":"p","accessor":"a"}}`,
		`{"seq":9,"time":"2026-01-02T03:04:05Z","kind":"CredentialChanged","data":{"id":"p","state":"wrong-ca","problem":"why"}}`,
		`{"seq":10,"time":"2026-01-02T03:04:05Z","kind":"ProxyRegistered","data":{"proxy":{"id":"p","node":"n","owner":{"kind":"any"},"index":1,"envoy":{"admin_bind":"a","ready_bind":"b","prometheus":{"scrape_path":"/m","merge_port":1,"service_metrics_url":"u","ca_certs_file":"f","ca_certs_path":"g","cert_file":"h","key_file":"i"},"no_central_telemetry":true,"secrets_dir":"/s","ca_certs":"/c","cert":"/d","key":"/e","server_name":"n","startup_grace_seconds":1,"shutdown_grace_seconds":2,"shutdown_drain":true,"graceful_bind":"j","graceful_startup_path":"/k","graceful_shutdown_path":"/l","dump_config_on_exit":true},"credential":{"type":"login","token_file":"/t","login":{"auth_method":"m","datacenter":"d","namespace":"n","partition":"p","bearer_token_file":"/b","meta":{"a":"b"}}},"process":{"pid":1,"start":2,"boot_id":"b","uid":3,"gid":4}}}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e state.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Skip(err) // a year that time.Time parses and does not print
		}
		var again state.Event
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		text2, err := json.Marshal(again)
		if err != nil || string(text) != string(text2) || again.Body.ProxyID() != e.Body.ProxyID() {
			t.Fatalf("%s became %s: %v", text, text2, err)
		}
		s := state.Fold(state.New(), e)
		if !s.Equal(state.Fold(state.New(), again)) {
			t.Fatalf("%s folds to another state when decoded again", text)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"seq":9,"time":"2026-01-02T03:04:05Z","servers":[{"id":"s1","slot":1,"port":1,"since":"2026-01-02T03:04:05Z"}],"drained":{"s1":{"by":"x","since":"2026-01-02T03:04:05Z"}},"proxies":[{"id":"p","node":"n","owner":{"kind":"any"},"index":1,"known":true,"registered":"2026-01-02T03:04:05Z","ranked":["s1"],"reason":"initial","placed":"2026-01-02T03:04:05Z","envoy":{"prometheus":{}},"credential":{"type":"login","login":{"auth_method":"m"}},"process":{"pid":1,"start":2,"boot_id":"b","uid":3,"gid":4},"credential_state":"ok","credential_since":"2026-01-02T03:04:05Z"}],"resting":{"2":"2026-01-02T03:04:05Z"},"last_index":2,"slots":{"s1":{"slot":1}},"logins":{"a":{"accessor":"a","proxy_id":"p","auth_method":"m","expires":"2026-01-02T03:04:05Z","key":"k","since":"2026-01-02T03:04:05Z"}},"swept":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s, again state.State
		if err := json.Unmarshal(data, &s); err != nil {
			return
		}
		s.Check() // must not panic, whatever it says
		text, err := json.Marshal(s)
		if err != nil {
			t.Skip(err)
		}
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !s.Equal(again) || !reflect.DeepEqual(s.LastIndex, again.LastIndex) {
			t.Fatalf("%s is another state when decoded again", text)
		}
	})
}
