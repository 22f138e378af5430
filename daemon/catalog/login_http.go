package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// loginHTTP asks /v1/acl/login, which unlike gRPC tells when the token ends.
func (c *Catalog) loginHTTP(ctx context.Context, target string, q LoginQuery) (Token, error) {
	body, err := json.Marshal(struct {
		AuthMethod, BearerToken string
		Meta                    map[string]string `json:",omitempty"`
	}{q.AuthMethod, q.BearerToken, q.Meta})
	if err != nil {
		return Token{}, &Problem{Sentence: "the login cannot be written as JSON: check its metadata", Err: err}
	}
	var answer struct {
		AccessorID, SecretID string
		ExpirationTime       time.Time
	}
	said, err := c.postACL(ctx, target, "/v1/acl/login", q.parameters(), "", body, &answer)
	if err != nil {
		if refusal := refusedLogin(q, said); refusal != nil {
			return Token{}, refusal
		}
		return Token{}, err
	}
	return Token{SecretID: answer.SecretID, AccessorID: answer.AccessorID, Expires: answer.ExpirationTime}, nil
}

func (c *Catalog) logoutHTTP(ctx context.Context, target, secretID, datacenter string) error {
	said, err := c.postACL(ctx, target, "/v1/acl/logout", LoginQuery{Datacenter: datacenter}.parameters(), secretID, nil, nil)
	if err != nil && gone(said) {
		return nil
	}
	return err
}

// gone says that there is no such token any more.
func gone(said string) bool {
	return strings.Contains(said, "ACL not found") || strings.Contains(said, "token does not exist")
}

// parameters are for Consul Enterprise, where they are not the default; Consul
// without it refuses them.
func (q LoginQuery) parameters() url.Values {
	v := url.Values{}
	for key, value := range map[string]string{"dc": q.Datacenter, "ns": q.Namespace, "partition": q.Partition} {
		if value != "" && (key == "dc" || value != defaultTenancy) {
			v.Set(key, value)
		}
	}
	return v
}

// postACL makes a request that carries a secret of a proxy's, and never the
// daemon's own token. said is the answer's beginning when it is a refusal.
func (c *Catalog) postACL(ctx context.Context, target, path string, query url.Values, token string, body []byte, into any) (said string, err error) {
	where := url.URL{Scheme: "https", Host: target, Path: path, RawQuery: query.Encode()}
	if c.cfg.TLS.Disabled {
		where.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, where.String(), bytes.NewReader(body))
	if err != nil {
		return "", &Problem{Sentence: fmt.Sprintf("%s is no address of a Consul server", target), Err: err}
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return "", explain(target, err)
	}
	defer resp.Body.Close()
	answer := io.LimitReader(resp.Body, maxBody)
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(answer, 1024)) // only to be looked at
		said = strings.TrimSpace(string(raw))
		return said, limited(explainStatus(target, resp.StatusCode, said, token), resp.StatusCode, said)
	}
	if into != nil {
		if err := json.NewDecoder(answer).Decode(into); err != nil {
			// Its text may quote what was read, which is a token.
			return "", &Problem{Sentence: fmt.Sprintf("the Consul server at %s answers %s with what is no JSON", target, path)}
		}
	}
	_, _ = io.Copy(io.Discard, answer) // so that the connection is used again
	return "", nil
}

// limited marks a refusal for want of capacity.
func limited(err error, code int, said string) error {
	if code != http.StatusTooManyRequests && !strings.Contains(said, "rate limit") {
		return err
	}
	p := &Problem{Sentence: err.Error(), Err: ErrLimited}
	if was := (*Problem)(nil); errors.As(err, &was) {
		p.Sentence = was.Sentence
	}
	return p
}
