package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// View is how a tab shows pages.
type View struct {
	Width, Height int     // in CSS pixels
	Scale         float64 // of a picture's pixels; 0 means 1
	Dark          bool
	Mobile        bool
	NoScript      bool
}

// Tab is a page of a browser. It is safe for concurrent use.
type Tab struct {
	browser *Browser
	session string
	target  string

	mu         sync.Mutex
	complaints []string
}

// Open opens an empty tab.
func (b *Browser) Open(ctx context.Context, v View) (*Tab, error) {
	var target struct {
		ID string `json:"targetId"`
	}
	if err := b.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return nil, err
	}
	var session struct {
		ID string `json:"sessionId"`
	}
	if err := b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &session); err != nil {
		return nil, err
	}
	t := &Tab{browser: b, session: session.ID, target: target.ID}
	b.mu.Lock()
	b.tabs[t.session] = t
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		if err := t.Call(ctx, domain+".enable", nil, nil); err != nil {
			return nil, err
		}
	}
	return t, t.Show(ctx, v)
}

// Close closes the tab.
func (t *Tab) Close(ctx context.Context) error {
	defer func() {
		t.browser.mu.Lock()
		defer t.browser.mu.Unlock()
		delete(t.browser.tabs, t.session)
	}()
	return t.browser.call(ctx, "", "Target.closeTarget", map[string]any{"targetId": t.target}, nil)
}

// Show changes how pages are shown.
func (t *Tab) Show(ctx context.Context, v View) error {
	if v.Scale == 0 {
		v.Scale = 1
	}
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	return errors.Join(
		t.Call(ctx, "Emulation.setDeviceMetricsOverride", map[string]any{
			"width": v.Width, "height": v.Height, "deviceScaleFactor": v.Scale, "mobile": v.Mobile,
		}, nil),
		t.Call(ctx, "Emulation.setEmulatedMedia", map[string]any{
			"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
		}, nil),
		t.Call(ctx, "Emulation.setScriptExecutionDisabled", map[string]any{"value": v.NoScript}, nil),
	)
}

// Call makes a call of the DevTools protocol for this tab. result may be nil.
func (t *Tab) Call(ctx context.Context, method string, params, result any) error {
	return t.browser.call(ctx, t.session, method, params, result)
}

// Load loads a page and waits until its document is complete.
func (t *Tab) Load(ctx context.Context, url string) error {
	var loaded struct {
		Error string `json:"errorText"`
	}
	if err := t.Call(ctx, "Page.navigate", map[string]any{"url": url}, &loaded); err != nil {
		return err
	}
	if loaded.Error != "" {
		return fmt.Errorf("load %s: %s", url, loaded.Error)
	}
	return t.Wait(ctx, `document.readyState === "complete" && location.href !== "about:blank"`)
}

// Eval evaluates an expression, which may be a promise, and decodes its value.
// result may be nil.
func (t *Tab) Eval(ctx context.Context, expression string, result any) error {
	var got struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	err := t.Call(ctx, "Runtime.evaluate", map[string]any{
		"expression": expression, "returnByValue": true, "awaitPromise": true,
	}, &got)
	if err != nil {
		return err
	}
	if e := got.Exception; e != nil {
		return fmt.Errorf("evaluate %s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if result == nil || got.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(got.Result.Value, result)
}

// Wait waits until an expression is true.
func (t *Tab) Wait(ctx context.Context, expression string) error {
	for {
		var is bool
		err := t.Eval(ctx, "Boolean("+expression+")", &is)
		if err == nil && is {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", expression, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Press presses and releases a key, such as "Tab" or "Enter".
func (t *Tab) Press(ctx context.Context, key string) error {
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
	down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
	if key == "Enter" {
		down["text"] = "\r"
	}
	up := map[string]any{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
	return errors.Join(t.Call(ctx, "Input.dispatchKeyEvent", down, nil), t.Call(ctx, "Input.dispatchKeyEvent", up, nil))
}

// Type types text into what has the focus.
func (t *Tab) Type(ctx context.Context, text string) error {
	return t.Call(ctx, "Input.insertText", map[string]any{"text": text}, nil)
}

// Picture takes a picture of the view, PNG; whole: of the whole page.
func (t *Tab) Picture(ctx context.Context, whole bool) ([]byte, error) {
	var picture struct {
		Data []byte `json:"data"` // base64
	}
	err := t.Call(ctx, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": whole}, &picture)
	return picture.Data, err
}

// Complaints gives the errors and warnings that the page's console and the
// browser itself (a policy that refuses something) have told so far.
func (t *Tab) Complaints() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.complaints...)
}

// heard takes an event of the protocol.
func (t *Tab) heard(method string, params json.RawMessage) {
	var said string
	switch method {
	case "Runtime.exceptionThrown":
		var e struct {
			Details struct {
				Text      string `json:"text"`
				Exception struct {
					Description string `json:"description"`
				} `json:"exception"`
			} `json:"exceptionDetails"`
		}
		_ = json.Unmarshal(params, &e) // what cannot be decoded is told as ""
		said = "exception: " + e.Details.Text + " " + e.Details.Exception.Description
	case "Log.entryAdded":
		var e struct {
			Entry struct{ Level, Text, URL string } `json:"entry"`
		}
		_ = json.Unmarshal(params, &e)
		if e.Entry.Level != "error" && e.Entry.Level != "warning" {
			return
		}
		said = strings.TrimSpace(e.Entry.Level + ": " + e.Entry.Text + " " + e.Entry.URL)
	case "Runtime.consoleAPICalled":
		var e struct {
			Type string `json:"type"`
			Args []struct {
				Value       any    `json:"value"`
				Description string `json:"description"`
			} `json:"args"`
		}
		_ = json.Unmarshal(params, &e)
		if e.Type != "error" && e.Type != "warning" {
			return
		}
		said = fmt.Sprint("console.", e.Type, ": ", e.Args)
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complaints = append(t.complaints, said)
}
