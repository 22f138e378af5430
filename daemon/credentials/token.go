package credentials

import (
	"context"
	"fmt"
	"strings"

	"github.com/lictor-mesh/lictor/state"
)

// obtain gives the token that is to be in the proxy's file, "" when there is
// none, and what is wrong, when something is. Both are given when a token of
// before stays in force for want of a better one.
func (w *worker) obtain(ctx context.Context, p state.Proxy) (string, *trouble) {
	c := p.Credential
	if c == nil || c.Type != state.CredentialLogin {
		w.letGo()
	}
	if c == nil {
		return "", nil
	}
	switch c.Type {
	case state.CredentialStatic:
		if w.static == "" {
			g, err := w.m.givenTo(w.id)
			if err != nil {
				return "", unreadable(err)
			}
			w.static = g.Token
		}
		return w.static, nil
	case state.CredentialFile:
		raw, err := w.view.Read(c.TokenFile, maxToken)
		token := strings.TrimSpace(string(raw))
		if err == nil && token == "" {
			err = fmt.Errorf("the token file %s is empty", c.TokenFile)
		}
		if err != nil {
			return "", unreadable(err)
		}
		return token, nil
	case state.CredentialLogin:
		return w.obtainByLogin(ctx, c.Login)
	}
	return "", nil
}
