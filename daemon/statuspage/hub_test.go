package statuspage

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

func TestTheStreamTellsEverythingThenWhatDiffers(t *testing.T) {
	f := newFake(3)
	s := follow(t, serve(t, f))
	first, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	if !first.All || first.Build == "" || first.Summary == nil || len(first.Servers) != 2 || len(first.Proxies) != 3 {
		t.Fatalf("the first update is %+v", first)
	}
	for range 3 {
		if u, err := s.next(); err != nil || u.All || u.Proxies != nil {
			t.Fatalf("nothing has changed, but %+v, %v", u, err)
		}
	}
	f.set(func() { f.proxies[1].State = v1.ProxyWaiting })
	u := s.until("a changed proxy", func(u update) bool { return u.Proxies != nil })
	if len(u.Proxies) != 1 || u.Proxies[0].ID != "web-0001" || u.Proxies[0].Level != bad || u.Gone != nil {
		t.Errorf("told of %+v", u)
	}
	f.set(func() { f.proxies = f.proxies[1:] })
	u = s.until("a proxy that is gone", func(u update) bool { return u.Gone != nil })
	if len(u.Gone) != 1 || u.Gone[0] != "web-0000" || u.Proxies != nil {
		t.Errorf("told of %+v", u)
	}
	f.set(func() { f.servers[1].Active = 9 })
	s.until("a changed server", func(u update) bool { return u.Servers != nil && u.Servers[1].Active == 9 })
	s.until("its sparkline", func(u update) bool {
		return u.Servers != nil && len(u.Servers[1].Past) > 2 && u.Servers[1].Past[len(u.Servers[1].Past)-1] == 9
	})
	was := f.servers
	f.set(func() { f.servers = nil })
	s.until("no server", func(u update) bool { return u.Servers != nil && len(u.Servers) == 0 })
	time.Sleep(60 * time.Millisecond)
	f.set(func() { f.servers = was })
	s.until("a server that is back, and when it was away", func(u update) bool {
		return len(u.Servers) == 2 && slices.Contains(u.Servers[1].Past, 9) && slices.Contains(u.Servers[1].Past, 0)
	})
	f.set(func() { f.status.Attachment.InEffect = false })
	s.until("a hook that is gone", func(u update) bool {
		return u.Summary != nil && u.Summary.Checks[0].Level == bad && len(u.Summary.Problems) > 0
	})
}

func TestAFailoverIsTold(t *testing.T) {
	f := newFake(2)
	url := serve(t, f)
	s := follow(t, url)
	s.until("everything", func(u update) bool { return u.All })
	f.events <- journaled(7, state.Placed{ID: "web-0000", Ranked: []string{"s2", "s1"}, Reason: state.PlaceConnectFailed})
	u := s.until("news", func(u update) bool { return u.News != nil })
	if got := u.News[0].Text; got != "web-0000 moved from s1 to s2" || u.News[0].Why != "a connection failed" {
		t.Errorf("told %+v", u.News)
	}
	f.conns <- v1.ConnectionEvent{Kind: "failed", ProxyID: "web-0001", Server: "s1", Time: time.Now()}
	f.conns <- v1.ConnectionEvent{Kind: "established", ProxyID: "web-0001", Server: "s2", Time: time.Now()}
	u = s.until("news of two", func(u update) bool { return u.News != nil })
	if got := u.News[0]; got.Text != "2 proxies moved from s1 to s2" || got.ID != 1 || len(got.Names) != 2 {
		t.Errorf("told %+v", got)
	}
	late := follow(t, url)
	all := late.until("everything", func(u update) bool { return u.All })
	if len(all.News) != 1 || all.News[0].ID != 1 {
		t.Errorf("who comes later is told %+v", all.News)
	}
	if _, _, page := get(t, url+"/"); !strings.Contains(page, "2 proxies moved from s1 to s2") {
		t.Error("the page does not tell it")
	}
}

func TestASourceThatFailsIsSaid(t *testing.T) {
	f := newFake(1)
	s := follow(t, serve(t, f))
	s.until("everything", func(u update) bool { return u.All && u.Stale == "" })
	f.set(func() { f.fail = errors.New("it burns") })
	u := s.until("staleness", func(u update) bool { return u.Stale != "" })
	if strings.Contains(u.Stale, "burns") {
		t.Errorf("the error itself is told: %q", u.Stale)
	}
	f.set(func() { f.fail = nil })
	s.until("freshness", func(u update) bool { return u.Stale == "" })
}

// Nobody watches: proxies and status are not read again and again.
func TestNobodyWatchesNobodyAsks(t *testing.T) {
	f := newFake(1)
	url := serve(t, f)
	get(t, url+"/")
	count := func() (n int) { f.set(func() { n = f.full }); return n }
	was := count()
	time.Sleep(150 * time.Millisecond)
	if n := count(); n != was {
		t.Errorf("read %d times though nobody watches", n-was)
	}
	s := follow(t, url)
	s.until("everything", func(u update) bool { return u.All })
	for range 10 {
		if _, err := s.next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n < was+2 {
		t.Errorf("read %d times while somebody watches", n-was)
	}
}

// A reader that takes nothing is let go; another one goes on undisturbed.
func TestASlowReaderIsLetGo(t *testing.T) {
	f := newFake(2000)
	var page *Page
	url := serve(t, f, func(p *Page) { p.timing.patience, page = 300*time.Millisecond, p })
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /page/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	quick := follow(t, url)
	quick.until("everything", func(u update) bool { return u.All })
	// Until what lies in the sockets' buffers is full, and a write takes too long.
	for i, until := 0, time.Now().Add(time.Minute); page.readers.Load() > 1; i++ {
		if time.Now().After(until) {
			t.Fatal("the slow reader is still there")
		}
		f.set(func() {
			for n := range f.proxies {
				f.proxies[n].Active = uint64(i)
			}
		})
		if _, err := quick.next(); err != nil {
			t.Fatalf("the other reader: %v", err)
		}
	}
}

func TestReadersAreBounded(t *testing.T) {
	url := serve(t, newFake(0))
	for range maxReaders {
		follow(t, url).until("everything", func(u update) bool { return u.All })
	}
	r, err := http.Get(url + "/page/events")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", r.Status)
	}
	if status, _, _ := get(t, url+"/"); status != 200 {
		t.Errorf("the page itself: %d", status)
	}
}

func TestReadersAreLetGoAtTheEnd(t *testing.T) {
	f := newFake(1)
	var s *stream
	t.Run("while it runs", func(t *testing.T) {
		s = follow(t, serve(t, f))
		s.until("everything", func(u update) bool { return u.All })
	})
	if _, err := s.in.ReadByte(); err == nil {
		for err == nil {
			_, err = s.in.ReadByte()
		}
	}
}

// What nobody has asked for lately does not stay in memory, and who comes next is
// told everything all the same.
func TestWhatNobodyAsksForIsForgotten(t *testing.T) {
	f := newFake(3)
	h := newHub(New(Config{Source: f}))
	h.read(readSource(t.Context(), f, true))
	h.forget()
	if len(h.known.Proxies) != 3 {
		t.Fatalf("%d proxies are known a moment after", len(h.known.Proxies))
	}
	h.fullAt = time.Now().Add(-2 * longest)
	h.waiting = []request{{}}
	h.forget()
	if h.known.Summary == nil {
		t.Error("forgotten though somebody waits")
	}
	h.waiting = nil
	h.forget()
	if h.known.Summary != nil || h.known.Proxies != nil || len(h.rows) > 0 {
		t.Errorf("still known: %+v, %v", h.known, h.rows)
	}
	late := request{answer: make(chan update, 1)}
	h.asked(late)
	h.read(readSource(t.Context(), f, true))
	if u := <-late.answer; !u.All || u.Summary == nil || len(u.Proxies) != 3 {
		t.Errorf("told %+v", u)
	}
}
