package bootstrap

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

// Names of the files, in a directory of the proxy's own, that its Envoy reads
// its secrets from and watches. Each holds all of one secret, a certificate
// together with its key: so whoever writes one beside its place and renames it
// changes all of it at once. Envoy refuses to start without a file that its
// bootstrap names, and what it has last read stays in force when a file goes.
const (
	TokenFile  = "token.json"  // TokenSecret
	CAFile     = "ca.json"     // CASecret
	ClientFile = "client.json" // ClientSecret
)

// Names of the secrets inside the files, by which the bootstrap asks for them.
const (
	tokenSecret  = "consul-token"
	caSecret     = "consul-ca"
	clientSecret = "consul-client"
)

// TokenSecret is the content of TokenFile: the ACL token that Envoy sends with
// each stream. An empty token, and one that is no HTTP header, is an error.
// No error of it shows the token.
func TokenSecret(token string) ([]byte, error) {
	if token == "" {
		return nil, errors.New("render secret of an ACL token: it is empty")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("render secret of an ACL token: it has white space or characters in it that no HTTP header may have")
	}
	return secret(&tlsv3.Secret{Name: tokenSecret, Type: &tlsv3.Secret_GenericSecret{
		GenericSecret: &tlsv3.GenericSecret{Secret: inline([]byte(token))},
	}})
}

// CASecret is the content of CAFile: the certificates, as PEM, of the authorities
// that the servers' certificates may come from.
func CASecret(certificates []byte) ([]byte, error) {
	if !hasBlock(certificates, "CERTIFICATE") {
		return nil, errors.New("render secret of the CA: no PEM certificate in it")
	}
	return secret(&tlsv3.Secret{Name: caSecret, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(certificates)},
	}})
}

// ClientSecret is the content of ClientFile: the certificate that Envoy shows to
// the servers, with its chain if it has one, and its key, both as PEM. No error
// of it shows the key.
func ClientSecret(certificate, key []byte) ([]byte, error) {
	if !hasBlock(certificate, "CERTIFICATE") {
		return nil, errors.New("render secret of the client certificate: no PEM certificate in it")
	}
	if !hasBlock(key, "PRIVATE KEY") {
		return nil, errors.New("render secret of the client certificate: no PEM private key beside it")
	}
	return secret(&tlsv3.Secret{Name: clientSecret, Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(certificate), PrivateKey: inline(key)},
	}})
}

// hasBlock says whether there is a PEM block whose type ends so, as the types of
// private keys differ in their beginning.
func hasBlock(text []byte, kind string) bool {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return false
		}
		if strings.HasSuffix(block.Type, kind) {
			return true
		}
		text = rest
	}
}

func inline(content []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(content)}}
}

// secret is the document in which Envoy reads a secret from a file: an answer of
// a discovery service.
func secret(s *tlsv3.Secret) ([]byte, error) {
	a, err := pack(s)
	if err != nil {
		return nil, fmt.Errorf("render secret %s: it is no UTF-8, or not valid in Envoy", s.GetName()) // err may quote it
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(
		&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{a}})
	if err != nil {
		return nil, fmt.Errorf("render secret %s: marshal it", s.GetName()) // likewise
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("render secret %s: %w", s.GetName(), err)
	}
	return out.Bytes(), nil
}
