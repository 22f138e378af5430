package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// Nobody is a user without any rights, as whom pods' programs run: the uid of
// the distroless images.
const Nobody = 65532

// ExecOptions of a `lictor exec` in a pod.
type ExecOptions struct {
	Proxy Proxy
	Credential
	Flags []string // of lictor exec, before "--"
	Envoy []string // arguments of Envoy, after those that the bed gives it
	// UID of lictor exec, and so of Envoy; default [Nobody]. See Root.
	UID  uint32
	Root bool // run as root
	Env  []string
	// Admin is where Envoy's admin interface is; default 127.0.0.1:19000. To
	// move it takes a flag of lictor exec's too.
	Admin string
}

// Credential is how a proxy gets its ACL token; the zero value is none.
type Credential struct {
	Token     string // static: the SecretID, given by the environment
	TokenFile string // or a file that holds it, which is followed
	Login     *Login // or a login
	Bearer    string // path of the login's bearer token, read at every login
}

func (c Credential) flags() (flags, env []string) {
	switch {
	case c.Token != "":
		return []string{"--credential-type=static"}, []string{"DP_CREDENTIAL_STATIC_TOKEN=" + c.Token}
	case c.TokenFile != "":
		return []string{"--credential-token-file=" + c.TokenFile}, nil
	case c.Login != nil:
		return []string{"--credential-type=login", "--login-auth-method=" + c.Login.Name, "--login-bearer-token-path=" + c.Bearer}, nil
	}
	return nil, nil
}

// Exec runs `lictor exec` on a node, which becomes the proxy's Envoy under the
// same pid, and waits for nothing; see [Envoy.WaitUp].
func (l *Lictor) Exec(ctx context.Context, n *Node, o ExecOptions) (*Envoy, error) {
	envoy, err := binaries.Envoy(ctx, n.bed.progress)
	if err != nil {
		return nil, err
	}
	lictor, err := lictorBinary("", "LICTOR", "lictor")
	if err != nil {
		return nil, err
	}
	flags, env := o.flags()
	c := Command{Name: "envoy", Env: append(env, o.Env...)}
	if !o.Root {
		if c.UID = o.UID; c.UID == 0 {
			c.UID = Nobody
		}
		if lictor, err = n.bed.public(lictor); err != nil {
			return nil, err
		}
		if envoy, err = n.bed.public(envoy); err != nil {
			return nil, err
		}
	}
	if o.Admin == "" {
		o.Admin = "127.0.0.1:19000"
	}
	c.Path = lictor
	c.Args = []string{"--socket=" + l.Socket, "exec", o.Proxy.ID, "--node-name=" + o.Proxy.NodeName, "--envoy=" + envoy}
	c.Args = append(append(c.Args, flags...), o.Flags...)
	// As StartEnvoy has it.
	c.Args = append(c.Args, "--", "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
	c.Args = append(c.Args, o.Envoy...)
	p, err := n.Start(c)
	if err != nil {
		return nil, err
	}
	return &Envoy{Process: p, admin: o.Admin}, nil
}

// Directory is where the Envoy's bootstrap is, and of one that `lictor exec` became
// the files with its secrets too. Before it has become Envoy that is an error.
func (e *Envoy) Directory() (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PID()))
	if err != nil {
		return "", fmt.Errorf("find the bootstrap of %s: %w", e.Name, err)
	}
	args := strings.Split(string(text), "\x00")
	for i, arg := range args {
		if (arg == "--config-path" || arg == "-c") && i+1 < len(args) {
			return filepath.Dir(args[i+1]), nil
		}
	}
	return "", fmt.Errorf("find the bootstrap of %s: it has not become Envoy", e.Name)
}

// public is a path of the program that every user can run: the given one, or a
// copy's where a directory above it is closed to others, as a home directory is.
func (b *Bed) public(path string) (string, error) {
	if open(path) {
		return path, nil
	}
	dir, err := b.run.Dir("bin")
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, filepath.Base(path))
	b.mu.Lock() // one copy
	defer b.mu.Unlock()
	if _, err := os.Stat(copied); err == nil {
		return copied, nil
	}
	if err := copyFile(copied, path); err != nil {
		return "", fmt.Errorf("copy %s for other users: %w", path, err)
	}
	return copied, nil
}

// open tells whether anybody may go through all directories above the file and
// run it.
func open(path string) bool {
	for ; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if path == filepath.Dir(path) {
			return true
		}
	}
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // read-only: nothing can be lost
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}
