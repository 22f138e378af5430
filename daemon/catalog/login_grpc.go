package catalog

import (
	"context"
	"errors"

	"github.com/hashicorp/consul/proto-public/pbacl"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// loginGRPC is for where only the gRPC port is open. Its answer does not say
// when the token ends.
func (c *Catalog) loginGRPC(ctx context.Context, target string, q LoginQuery) (Token, error) {
	var answer *pbacl.LoginResponse
	said, err := c.callACL(target, func(acl pbacl.ACLServiceClient) (err error) {
		answer, err = acl.Login(ctx, &pbacl.LoginRequest{
			AuthMethod: q.AuthMethod, BearerToken: q.BearerToken, Meta: q.Meta,
			Datacenter: q.Datacenter, Namespace: q.Namespace, Partition: q.Partition,
		})
		return err
	})
	if err != nil {
		if refusal := refusedLogin(q, said); refusal != nil {
			return Token{}, refusal
		}
		return Token{}, err
	}
	t := answer.GetToken()
	return Token{SecretID: t.GetSecretId(), AccessorID: t.GetAccessorId(), ExpiryUnknown: true}, nil
}

func (c *Catalog) logoutGRPC(ctx context.Context, target, secretID, datacenter string) error {
	said, err := c.callACL(target, func(acl pbacl.ACLServiceClient) error {
		_, err := acl.Logout(ctx, &pbacl.LogoutRequest{Token: secretID, Datacenter: datacenter})
		return err
	})
	if err != nil && gone(said) {
		return nil
	}
	return err
}

// callACL makes one call on a connection of its own. said is what the server
// said when it refused.
func (c *Catalog) callACL(target string, call func(pbacl.ACLServiceClient) error) (said string, err error) {
	d := &grpcDialer{c: c, target: target}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithContextDialer(d.dial),
		// The dialer does TLS, as for the stream of servers.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
	if err != nil {
		return "", explain(target, err)
	}
	defer func() { _ = conn.Close() }() // the call has ended
	err = call(pbacl.NewACLServiceClient(conn))
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return "", nil
	case codes.ResourceExhausted:
		return s.Message(), &Problem{Sentence: "the Consul server at " + target + " limits requests for now", Err: ErrLimited}
	case codes.Unimplemented:
		return s.Message(), &Problem{Sentence: "the Consul server at " + target + " does not know logins over gRPC: it must be 1.13 or later", Err: err}
	default:
		var explained *Problem
		if err := d.explain(err); errors.As(err, &explained) {
			return s.Message(), explained
		}
		return s.Message(), err
	}
}
