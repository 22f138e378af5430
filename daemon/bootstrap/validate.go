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
	known, err := json.Marshal(conform(tree, into.ProtoReflect().Descriptor()))
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

// conform makes a tree one that Go's protobuf takes as Envoy's does: a lone value
// is a list of one, and of an extension that is not linked in only the type is
// left.
func conform(tree any, as protoreflect.MessageDescriptor) any {
	object, ok := tree.(map[string]any)
	if !ok {
		return tree
	}
	if as.FullName() == "google.protobuf.Any" {
		url, _ := object[typeKey].(string)
		t, err := protoregistry.GlobalTypes.FindMessageByURL(url)
		if err != nil {
			return map[string]any{typeKey: object[typeKey]}
		}
		as = t.Descriptor()
	}
	if as.ParentFile().Package() == "google.protobuf" {
		return tree // with a form of its own
	}
	for key, value := range object {
		field := as.Fields().ByJSONName(key)
		if field == nil {
			field = as.Fields().ByTextName(key)
		}
		if field != nil {
			object[key] = conformField(value, field)
		}
	}
	return tree
}

func conformField(value any, as protoreflect.FieldDescriptor) any {
	switch {
	case value == nil:
	case as.IsMap():
		if entries, ok := value.(map[string]any); ok && as.MapValue().Message() != nil {
			for key := range entries {
				entries[key] = conform(entries[key], as.MapValue().Message())
			}
		}
	case as.IsList():
		items, ok := value.([]any)
		if !ok {
			items = []any{value}
		}
		for i := range items {
			if as.Message() != nil {
				items[i] = conform(items[i], as.Message())
			}
		}
		return items
	case as.Message() != nil:
		return conform(value, as.Message())
	}
	return value
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
