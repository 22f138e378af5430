package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Errors of the decoders. They are wrapped; test with errors.Is.
var (
	// ErrUnknownKind is returned for an event of a kind that this version does
	// not know: a later version wrote it.
	ErrUnknownKind = errors.New("unknown kind of event")
	// ErrUnknownField is returned for a field that this version does not know:
	// a later version wrote it.
	ErrUnknownField = errors.New("unknown field")
	// ErrMalformed is returned for what is no event at all: broken JSON, a
	// missing part, a value of the wrong type.
	ErrMalformed = errors.New("malformed")
)

// wireEvent is the JSON form of an Event.
type wireEvent struct {
	Seq  uint64          `json:"seq"`
	Time time.Time       `json:"time"`
	Kind Kind            `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// MarshalJSON returns {"seq":…,"time":…,"kind":…,"data":…}. The error is
// ErrMalformed for an event without a body.
func (e Event) MarshalJSON() ([]byte, error) {
	data, err := EncodeBody(e.Body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wireEvent{Seq: e.Seq, Time: e.Time, Kind: e.Body.Kind(), Data: data})
}

// UnmarshalJSON is the inverse of MarshalJSON. It refuses unknown kinds and
// unknown fields, see ErrUnknownKind, ErrUnknownField and ErrMalformed.
func (e *Event) UnmarshalJSON(data []byte) error {
	var w wireEvent
	if err := decodeStrict(data, &w); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	body, err := DecodeBody(w.Kind, w.Data)
	if err != nil {
		return fmt.Errorf("decode event %d: %w", w.Seq, err)
	}
	*e = Event{Seq: w.Seq, Time: w.Time.UTC(), Body: body}
	return nil
}

// EncodeBody returns the JSON of a body. The error is ErrMalformed for nil and
// for what would not be the same when decoded: text that is no UTF-8, a year
// beyond 9999.
func EncodeBody(b Body) ([]byte, error) {
	if b == nil {
		return nil, fmt.Errorf("encode event: no body: %w", ErrMalformed)
	}
	data, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w: %w", b.Kind(), ErrMalformed, err)
	}
	// The encoder writes these six characters for bytes that are no UTF-8. They
	// may also be what the text says, behind an escaped backslash.
	if bytes.Contains(data, []byte(`\ufffd`)) && !survives(b.Kind(), data) {
		return nil, fmt.Errorf("encode %s: text is no UTF-8: %w", b.Kind(), ErrMalformed)
	}
	return data, nil
}

// survives reports whether a body's JSON is the same after decoding.
func survives(kind Kind, data []byte) bool {
	back, err := DecodeBody(kind, data)
	if err != nil {
		return false
	}
	again, err := json.Marshal(back)
	return err == nil && bytes.Equal(again, data)
}

// DecodeBody is the inverse of EncodeBody. See ErrUnknownKind, ErrUnknownField
// and ErrMalformed. The result shares no memory with data.
func DecodeBody(kind Kind, data []byte) (Body, error) {
	switch kind {
	case KindServerSeen:
		return decodeBody[ServerSeen](data)
	case KindServerChanged:
		return decodeBody[ServerChanged](data)
	case KindServerGone:
		return decodeBody[ServerGone](data)
	case KindServerDrained:
		return decodeBody[ServerDrained](data)
	case KindServerUndrained:
		return decodeBody[ServerUndrained](data)
	case KindProxyRegistered:
		return decodeBody[ProxyRegistered](data)
	case KindProxyChanged:
		return decodeBody[ProxyChanged](data)
	case KindProxyDeregistered:
		return decodeBody[ProxyDeregistered](data)
	case KindPlaced:
		return decodeBody[Placed](data)
	case KindLoggedIn:
		return decodeBody[LoggedIn](data)
	case KindLoggedOut:
		return decodeBody[LoggedOut](data)
	case KindCredentialChanged:
		return decodeBody[CredentialChanged](data)
	}
	return nil, fmt.Errorf("%w %q", ErrUnknownKind, kind)
}

func decodeBody[B Body](data []byte) (Body, error) {
	var b B
	if err := decodeStrict(data, &b); err != nil {
		return nil, fmt.Errorf("decode %s: %w", b.Kind(), err)
	}
	if common, ok := any(&b).(sharer); ok {
		common.share()
	}
	return b, nil
}

// decodeStrict decodes exactly one JSON object into v, without unknown fields.
func decodeStrict(data []byte, v any) error {
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return strict(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: something follows the JSON object", ErrMalformed)
	}
	return nil
}

// strict gives an error of encoding/json its sentinel.
func strict(err error) error {
	if errors.Is(err, ErrUnknownField) || errors.Is(err, ErrMalformed) {
		return err
	}
	// encoding/json has no type for this one, only its text.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("%w %s", ErrUnknownField, name)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}
