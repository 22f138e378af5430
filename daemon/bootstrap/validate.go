package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// Extensions that people's clusters, listeners and sinks are made of: what is
	// linked in is checked, other ones are left to Envoy.
	_ "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
)

// validate reads JSON as Envoy does into a message, and checks the rules of that
// and of the extensions inside. Of an extension that is not linked in only the
// type is looked at. The JSON itself stays as it is.
func validate(text []byte, into validator) error {
	tree, err := decode(text)
	if err != nil {
		return err
	}
	known, err := json.Marshal(blank(tree))
	if err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{Resolver: extensions{}}).Unmarshal(known, into); err != nil {
		return err
	}
	if err := into.ValidateAll(); err != nil {
		return err
	}
	return protorange.Options{Resolver: extensions{}}.Range(into.ProtoReflect(), func(v protopath.Values) error {
		last := v.Index(-1)
		if last.Step.Kind() != protopath.AnyExpandStep {
			return nil
		}
		if m, ok := last.Value.Message().Interface().(interface{ ValidateAll() error }); ok {
			return m.ValidateAll()
		}
		return nil
	}, nil)
}

// decode reads one JSON value.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // as it is written
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, jsonError(text, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after its end")
	}
	return tree, nil
}

// jsonError says where.
func jsonError(text []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	before := text[:min(int(syntax.Offset), len(text))]
	return fmt.Errorf("%w, in line %d at %q", err, 1+bytes.Count(before, []byte("\n")), tail(before))
}

// tail is the end of a text, for a message.
func tail(text []byte) []byte {
	const enough = 30
	return text[max(0, len(text)-enough):]
}

const typeKey = "@type"

// blank leaves only the type of extensions that are not linked in.
func blank(tree any) any {
	switch v := tree.(type) {
	case []any:
		for i := range v {
			v[i] = blank(v[i])
		}
	case map[string]any:
		if url, ok := v[typeKey].(string); ok && !linked(url) {
			return map[string]any{typeKey: url}
		}
		for k := range v {
			v[k] = blank(v[k])
		}
	}
	return tree
}

func linked(url string) bool {
	_, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	return err == nil
}

// extensions finds the types of extensions; one that is not linked in is taken
// for a message without fields.
type extensions struct{}

var unknown proto.Message = new(corev3.AggregatedConfigSource)

func (extensions) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t, err := protoregistry.GlobalTypes.FindMessageByURL(url); err == nil {
		return t, nil
	}
	return unknown.ProtoReflect().Type(), nil
}

func (extensions) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

func (extensions) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

func (extensions) FindExtensionByNumber(message protoreflect.FullName, field protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByNumber(message, field)
}
