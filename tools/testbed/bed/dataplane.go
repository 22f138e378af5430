package bed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// DataplaneOptions of a consul-dataplane.
type DataplaneOptions struct {
	Cluster *Cluster
	Proxy   Proxy
	// Token is the SecretID of a static token; "" for none.
	Token string
	// TLS to verify and to show, where the cluster has it; see [Cluster.ClientFiles].
	TLS   *pki.Files
	Flags []string // over the bed's own
	Envoy []string // arguments of Envoy, after those that the bed gives it
	UID   uint32   // default: root
}

// StartDataplane starts a consul-dataplane with its Envoy on a node: what Lictor
// is compared with. Without a binary of it, which has to be given, the error is
// [binaries.ErrNoDataplane]. The end of the process is not that of its Envoy;
// both are in the node's cgroup.
func (n *Node) StartDataplane(ctx context.Context, o DataplaneOptions) (*Envoy, error) {
	dataplane, err := binaries.Dataplane()
	if err != nil {
		return nil, err
	}
	envoy, err := binaries.Envoy(ctx, n.bed.progress)
	if err != nil {
		return nil, err
	}
	if o.UID != 0 {
		if dataplane, err = n.bed.public(dataplane); err != nil {
			return nil, err
		}
		if envoy, err = n.bed.public(envoy); err != nil {
			return nil, err
		}
	}
	args := []string{
		"-addresses=" + o.Cluster.fixedAddresses(),
		fmt.Sprintf("-grpc-port=%d", o.Cluster.Server(0).GRPCPort()),
		"-proxy-service-id=" + o.Proxy.ID, "-service-node-name=" + o.Proxy.NodeName,
		"-envoy-admin-bind-port=19000", "-envoy-concurrency=1", "-log-level=warn",
	}
	switch {
	case o.TLS == nil:
		args = append(args, "-tls-disabled")
	default:
		args = append(args, "-ca-certs="+o.TLS.CA(), "-tls-server-name="+ServerName)
		if o.Cluster.options.TLS == MutualTLS {
			args = append(args, "-tls-cert="+o.TLS.Cert(), "-tls-key="+o.TLS.Key())
		}
	}
	env := []string{"PATH=" + filepath.Dir(envoy) + ":" + os.Getenv("PATH")} // it runs the `envoy` on PATH
	if o.Token != "" {
		args = append(args, "-credential-type=static")
		env = append(env, "DP_CREDENTIAL_STATIC_TOKEN="+o.Token)
	}
	args = append(append(args, o.Flags...), "--", "--disable-hot-restart")
	p, err := n.Start(Command{
		Name: "consul-dataplane", Path: dataplane, Args: append(args, o.Envoy...), Env: env, UID: o.UID,
	})
	if err != nil {
		return nil, err
	}
	return &Envoy{Process: p, admin: "127.0.0.1:19000"}, nil
}

// fixedAddresses are the servers' addresses for a program that takes a single
// address, a name or a command: several are given by the last.
func (c *Cluster) fixedAddresses() string {
	servers := c.Servers()
	if len(servers) == 1 {
		return servers[0].bindAddr()
	}
	command := "exec=echo"
	for _, s := range servers {
		command += " " + s.bindAddr()
	}
	return command
}
