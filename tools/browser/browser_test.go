package browser_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestABrowserLoadsPressesAndShows(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "script-src 'nonce-a'")
		fmt.Fprint(w, `<!doctype html><title>t</title><input id=i><button id=b>x</button>
			<script nonce=a>b.onclick = () => { b.textContent = i.value; console.error("a", 1) }</script>
			<script>document.title = "not this"</script>`)
	}))
	defer s.Close()
	b := browser.ForTest(t)
	tab, err := b.Open(ctx, browser.View{Width: 320, Height: 200, Dark: true})
	if err != nil {
		t.Fatal(err)
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(tab.Load(ctx, s.URL))
	step(tab.Press(ctx, "Tab"))
	step(tab.Type(ctx, "typed"))
	step(tab.Press(ctx, "Tab"))
	step(tab.Press(ctx, "Enter"))
	step(tab.Wait(ctx, `b.textContent === "typed"`))
	var facts []any
	step(tab.Eval(ctx, `Promise.resolve([document.title, matchMedia("(prefers-color-scheme: dark)").matches, innerWidth])`, &facts))
	if fmt.Sprint(facts) != "[t true 320]" {
		t.Errorf("the page says %v", facts)
	}
	picture, err := tab.Picture(ctx, false)
	step(err)
	if size, err := png.DecodeConfig(bytes.NewReader(picture)); err != nil || size.Width != 320 || size.Height != 200 {
		t.Errorf("picture: %+v, %v", size, err)
	}
	complaints := strings.Join(tab.Complaints(), "\n")
	if !strings.Contains(complaints, "console.error") || !strings.Contains(complaints, "Content Security Policy") {
		t.Errorf("complaints: %s", complaints)
	}
	if err := tab.Eval(ctx, "nothing.at.all", nil); err == nil || !strings.Contains(err.Error(), "ReferenceError") {
		t.Errorf("evaluating nonsense: %v", err)
	}
	step(tab.Close(ctx))
}

func TestNoBrowser(t *testing.T) {
	t.Setenv("CHROMIUM", "/nowhere/chromium")
	if _, err := browser.Start(t.Context()); !errors.Is(err, browser.ErrNone) {
		t.Errorf("error %v", err)
	}
}
