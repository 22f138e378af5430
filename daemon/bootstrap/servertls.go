package bootstrap

import (
	"net/netip"
	"path"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// tokenHeader carries the ACL token of a stream.
const tokenHeader = "x-consul-token"

// serverTLS verifies the servers by a CA and a name. The name is in the
// bootstrap and not beside the CA, so that no file can leave it out.
func (b *builder) serverTLS() (*corev3.TransportSocket, error) {
	if b.TLS == nil {
		return nil, nil
	}
	name, sni := &tlsv3.SubjectAltNameMatcher{
		SanType: tlsv3.SubjectAltNameMatcher_DNS,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: b.TLS.ServerName}},
	}, b.TLS.ServerName
	if _, err := netip.ParseAddr(b.TLS.ServerName); err == nil {
		name.SanType, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "" // SNI has no addresses
	}
	common := &tlsv3.CommonTlsContext{
		// As every gRPC server must demand.
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		AlpnProtocols: []string{"h2"},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{name},
				},
				ValidationContextSdsSecretConfig: watched(caSecret, b.TLS.CAFile),
			},
		},
	}
	if b.TLS.ClientFile != "" {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{watched(clientSecret, b.TLS.ClientFile)}
	}
	return transportSocket(&tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: common})
}

// tokenFilters put the token into each stream as it leaves Envoy. A filter reads
// it from a watched file, which initial metadata of the stream could not.
func (b *builder) tokenFilters() ([]*hcmv3.HttpFilter, error) {
	if b.TokenFile == "" {
		return nil, nil
	}
	credential, err := pack(&genericv3.Generic{
		Credential: watched(tokenSecret, b.TokenFile),
		Header:     tokenHeader,
	})
	if err != nil {
		return nil, err
	}
	injector, err := pack(&injectorv3.CredentialInjector{
		Overwrite: true,
		Credential: &corev3.TypedExtensionConfig{
			Name: "envoy.http.injected_credentials.generic", TypedConfig: credential,
		},
	})
	if err != nil {
		return nil, err
	}
	codec, err := pack(&codecv3.UpstreamCodec{}) // ends each chain of upstream filters
	if err != nil {
		return nil, err
	}
	return []*hcmv3.HttpFilter{
		{Name: "envoy.filters.http.credential_injector", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: injector}},
		{Name: "envoy.filters.http.upstream_codec", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: codec}},
	}, nil
}

// watched is a secret in a file. Envoy watches the directory for renames: with a
// watch on the file alone it would lose a file that is mounted by symbolic link.
func watched(name, file string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name: name,
		SdsConfig: &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
				Path:             file,
				WatchedDirectory: &corev3.WatchedDirectory{Path: path.Dir(file)},
			}},
		},
	}
}
