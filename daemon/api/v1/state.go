package v1

import (
	"context"
	"net/http"
	"net/url"
)

// StateAt gives the state of this host as of a past sequence number ("1204") or
// time (RFC 3339), as JSON in the form of `lictor journal state --json`. What is
// no longer retained is ProblemNotRetained.
func (c *Client) StateAt(ctx context.Context, at string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/v1/state?"+url.Values{"at": {at}}.Encode(), nil)
}
