package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// loginHTTP asks /v1/acl/login, which unlike gRPC tells when the token ends.
func (c *Catalog) loginHTTP(ctx context.Context, target string, q LoginQuery) (Token, error) {
	body := struct {
		AuthMethod, BearerToken string
		Meta                    map[string]string `json:",omitempty"`
	}{q.AuthMethod, q.BearerToken, q.Meta}
	var answer struct {
		AccessorID, SecretID string
		ExpirationTime       time.Time
	}
	said, err := c.postACL(ctx, target, question{path: "/v1/acl/login", query: q.parameters(), body: body, into: &answer})
	if err != nil {
		if refusal := refusedLogin(q, said); refusal != nil {
			return Token{}, refusal
		}
		return Token{}, err
	}
	return Token{SecretID: answer.SecretID, AccessorID: answer.AccessorID, Expires: answer.ExpirationTime}, nil
}

func (c *Catalog) logoutHTTP(ctx context.Context, target, secretID, datacenter string) error {
	said, err := c.postACL(ctx, target, question{path: "/v1/acl/logout", query: LoginQuery{Datacenter: datacenter}.parameters(), token: secretID})
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

// postACL puts a question that carries a secret of a proxy's, and never the
// daemon's own token. said is the answer's beginning when it is a refusal.
func (c *Catalog) postACL(ctx context.Context, target string, q question) (said string, err error) {
	q.method = http.MethodPost
	_, err = c.do(ctx, target, q)
	if refused := (statusError{}); errors.As(err, &refused) {
		err = explainStatus(target, refused, q.token)
		if refused.limits() {
			err = &Problem{Sentence: SentenceOf(err), Err: ErrLimited}
		}
		return refused.said, err
	}
	if errors.Is(err, errUnreadable) {
		// Its text may quote what was read, which is a token.
		err = &Problem{Sentence: fmt.Sprintf("the Consul server at %s answers %s with what is no JSON", target, q.path)}
	}
	return "", err
}
