package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// credential is what a member gets its ACL token by: one of its own, one in a
// file, or a login.
type credential struct {
	bed.Credential
	token *api.ACLToken // nil for a login
}

// static is a token of a member's own in the words of lictord's API.
func (c credential) static() *v1.Credential {
	return &v1.Credential{Credential: state.Credential{Type: state.CredentialStatic}, Token: c.Token}
}

// provide makes a member's credential.
func (m *mesh) provide(ctx context.Context, who *member) error {
	switch who.name {
	case "api", "stock": // by a bearer token, as pods have one of Kubernetes
		bearer, err := m.login.Bearer(who.service, time.Hour)
		if err != nil {
			return err
		}
		path, err := who.file("bearer", bearer)
		who.credential = credential{Credential: bed.Credential{Login: m.login, Bearer: path}}
		return err
	}
	token, err := m.cluster.NewToken(ctx, bed.TokenOptions{Services: []string{who.service}})
	if err != nil {
		return err
	}
	who.credential = credential{Credential: bed.Credential{Token: token.SecretID}, token: token}
	if who.name == rotated {
		path, err := who.file("token", token.SecretID)
		who.credential.Credential = bed.Credential{TokenFile: path}
		return err
	}
	return nil
}

// rotated is the member whose token is replaced. It has it in a file.
const rotated = "web"

// file writes something for the member's eyes alone, in the place of what was
// there before.
func (who *member) file(name, content string) (path string, err error) {
	path = filepath.Join(who.pod.Dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return "", err
	}
	if err := os.Chown(path+".new", bed.Nobody, bed.Nobody); err != nil {
		return "", fmt.Errorf("give %s to the user of %s: %w", name, who.name, err)
	}
	return path, os.Rename(path+".new", path)
}

// rotateToken gives a member another token and deletes the first one in Consul.
// Its Envoy's stream was let in by that one: the next change ends it, and only
// an Envoy that has the new one gets what follows.
func (s *scene) rotateToken(ctx context.Context) (finding, error) {
	m, who := s.demo.mesh, s.demo.mesh.members[0]
	next, err := m.cluster.NewToken(ctx, bed.TokenOptions{Services: []string{who.service}})
	if err != nil {
		return finding{}, err
	}
	if _, err := who.file("token", next.SecretID); err != nil {
		return finding{}, err
	}
	written := time.Now()
	if err := eventually(ctx, func() error { return who.holds(next.SecretID) }); err != nil {
		return finding{}, err
	}
	followed := time.Since(written)
	if err := m.cluster.DeleteToken(ctx, who.credential.token.AccessorID); err != nil {
		return finding{}, err
	}
	who.credential.token = next
	s.demo.feed.say("demo     the first token of %s is deleted", who.name)
	took, err := m.change(ctx, time.Now())
	if err != nil {
		return finding{}, err
	}
	_, err = m.agree(ctx)
	return finding{took.last(), fmt.Sprintf("its file was followed within %s; no Envoy and no lictord was restarted", seconds(followed))}, err
}

// holds is an error until the member's Envoy has been given the token.
func (who *member) holds(secret string) error {
	dir, err := who.envoy.Directory()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for the token of %s: %w", who.name, err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && strings.Contains(string(text), secret) {
			return nil
		}
	}
	return errors.New("the new token is not with the Envoy of " + who.name)
}
