package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Errors of requests that the Backend never sees.
var (
	errMalformed = errors.New("malformed request")      // 400
	errTooLarge  = errors.New("too large")              // 413
	errMediaType = errors.New("unsupported media type") // 415
)

// readBody reads a request's JSON body into v; no body is an empty object.
func readBody(r *http.Request, v any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, v1.MaxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the body: %w: %w", err, errMalformed)
	case len(raw) > v1.MaxBody:
		return fmt.Errorf("the body is longer than %d bytes: %w", v1.MaxBody, errTooLarge)
	case len(raw) == 0:
		return nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return fmt.Errorf("the body's Content-Type is %q; send application/json: %w", r.Header.Get("Content-Type"), errMediaType)
	}
	return decodeObject(raw, v)
}

// noBody refuses a body where none means anything: what the caller put there
// would be lost silently.
func noBody(r *http.Request) error {
	if r.ContentLength != 0 {
		return fmt.Errorf("%s %s takes no body: %w", r.Method, r.URL.Path, errMalformed)
	}
	return nil
}

// decodeObject decodes one JSON object, and nothing else, into the struct that
// v points to. It is stricter than encoding/json, which overlooks names it does
// not know, names in another case, names given twice, nulls, and bytes that are
// not UTF-8: each is an error here that names the field.
func decodeObject(raw []byte, v any) error {
	if !utf8.Valid(raw) {
		return fmt.Errorf("the body is not valid UTF-8: %w", errMalformed)
	}
	if err := checkNames(raw, reflect.TypeOf(v).Elem(), ""); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return malformed(err)
	}
	return nil
}

// checkNames reads an object's members, and those of the objects within,
// without their meaning. where is the object's own name and a dot, "" for the
// body's.
func checkNames(raw []byte, kind reflect.Type, where string) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if open, err := decoder.Token(); err != nil {
		return malformed(err)
	} else if open != json.Delim('{') {
		if where == "" {
			return fmt.Errorf("the body is not a JSON object: %w", errMalformed)
		}
		return nil // decoding says of what type it should be
	}
	known, names := members(kind)
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return malformed(err)
		}
		name, _ := token.(string) // the decoder lets nothing else be a name
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return malformed(err)
		}
		of := known[name]
		if kind.Kind() == reflect.Map { // of any names
			of = kind.Elem()
		}
		switch {
		case of == nil:
			return fmt.Errorf("unknown field %q; known are %s: %w", where+name, strings.Join(names, ", "), errMalformed)
		case seen[name]:
			return fmt.Errorf("field %q is given twice: %w", where+name, errMalformed)
		case string(value) == "null":
			return fmt.Errorf("field %q is null; leave it out instead: %w", where+name, errMalformed)
		}
		seen[name] = true
		if of.Kind() == reflect.Struct || of.Kind() == reflect.Map {
			if err := checkNames(value, of, where+name+"."); err != nil {
				return err
			}
		}
	}
	return nil
}

// members are the JSON names of a struct's fields, also of those that it
// embeds, with their types, which are not pointers.
func members(kind reflect.Type) (known map[string]reflect.Type, names []string) {
	known = map[string]reflect.Type{}
	if kind.Kind() != reflect.Struct {
		return known, nil
	}
	for _, field := range reflect.VisibleFields(kind) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			continue // embedded: its fields are visible too
		}
		of := field.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		known[name], names = of, append(names, name)
	}
	return known, names
}

// malformed says where JSON is wrong.
func malformed(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return fmt.Errorf("field %q is a %s where a %s belongs: %w", kind.Field, kind.Value, kind.Type, errMalformed)
	}
	return fmt.Errorf("the body is not JSON: %w: %w", err, errMalformed)
}

// params reads a request's query. Only the allowed names may be in it, each
// once.
func params(r *http.Request, allowed ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("read the query: %w: %w", err, errMalformed)
	}
	for name, values := range query {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("unknown query parameter %q: %w", name, errMalformed)
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("query parameter %q is given %d times: %w", name, len(values), errMalformed)
		}
	}
	return query, nil
}

// paramBool reads a parameter that is "true", "false", or absent.
func paramBool(query url.Values, name string) (bool, error) {
	switch value := query.Get(name); value {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	default:
		return false, fmt.Errorf("query parameter %s is %q; it is true or false: %w", name, value, errMalformed)
	}
}

// paramSeq reads a parameter that is a sequence number, absent being 0.
func paramSeq(query url.Values, name string) (uint64, error) {
	value := query.Get(name)
	if value == "" {
		return 0, nil
	}
	seq, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("query parameter %s is %q; it is a sequence number of the journal: %w", name, value, errMalformed)
	}
	return seq, nil
}
