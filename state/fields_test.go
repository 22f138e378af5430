package state_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// fill gives every field below v a value that is not its zero value, and no two
// alike.
func fill(v reflect.Value, n *int) {
	*n++
	switch at := v.Addr().Interface().(type) {
	case *time.Time:
		*at = epoch.Add(time.Duration(*n) * time.Second)
		return
	case *netip.Addr:
		*at = netip.AddrFrom4([4]byte{10, 0, byte(*n >> 8), byte(*n)})
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text-", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	default:
		panic(fmt.Sprintf("a field of type %s: teach fill of it", v.Type()))
	}
}

// alter changes the n-th value below v, and says where it is; "" when there are
// fewer. It counts n down.
func alter(v reflect.Value, path string, n *int) string {
	switch at := v.Addr().Interface().(type) {
	case *time.Time:
		if *n--; *n == 0 {
			*at = at.Add(time.Nanosecond)
			return path
		}
		return ""
	case *netip.Addr:
		if *n--; *n == 0 {
			*at = at.Next()
			return path
		}
		return ""
	}
	switch v.Kind() {
	case reflect.Pointer:
		return alter(v.Elem(), path, n)
	case reflect.Slice:
		return alter(v.Index(1), path+"[1]", n)
	case reflect.Map:
		key := v.MapKeys()[0]
		value := reflect.New(v.Type().Elem()).Elem()
		value.Set(v.MapIndex(key))
		found := alter(value, path+"[]", n)
		v.SetMapIndex(key, value)
		return found
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if found := alter(v.Field(i), path+"."+f.Name, n); found != "" {
				return found
			}
		}
		return ""
	}
	if *n--; *n > 0 {
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "'")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int:
		v.SetInt(v.Int() + 1)
	default:
		v.SetUint(v.Uint() + 1)
	}
	return path
}

// filled is a state of one of everything. It is read from JSON, so that it shares
// no memory with another.
func filled(t *testing.T) (s state.State) {
	t.Helper()
	n := 0
	fill(reflect.ValueOf(&s).Elem(), &n)
	for _, p := range s.Proxies { // as they are kept by their ids
		s.Proxies = map[string]*state.Proxy{p.ID: p}
	}
	for _, srv := range s.Servers {
		s.Servers = map[string]*state.Server{srv.ID: srv}
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var read state.State
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	for id, p := range s.Proxies {
		if !reflect.DeepEqual(p, read.Proxies[id]) {
			t.Fatalf("a snapshot makes of the proxy\n%+v\n%+v", p, read.Proxies[id])
		}
	}
	return read
}

// A snapshot keeps every field of a state, and two states are equal only when
// every field is: so it is found out when one that was added is forgotten there.
func TestEveryFieldOfAStateCounts(t *testing.T) {
	s := filled(t)
	if !s.Equal(filled(t)) {
		t.Fatal("a state is not equal to itself")
	}
	fields := 0
	for ; ; fields++ {
		other, n := filled(t), fields+1
		where := alter(reflect.ValueOf(&other).Elem(), "", &n)
		if where == "" {
			break
		}
		if s.Equal(other) || other.Equal(s) {
			t.Errorf("states that differ in %s are equal", where)
		}
		text, err := json.Marshal(other)
		if err != nil {
			t.Fatal(err)
		}
		if was, err := json.Marshal(s); err != nil || string(was) == string(text) {
			t.Errorf("snapshots of states that differ in %s are the same: %v", where, err)
		}
	}
	if fields < 80 {
		t.Errorf("only %d fields were altered", fields)
	}
}

// Every kind of event is decoded as what it was, with every field.
func TestEveryFieldOfAnEventIsJournaled(t *testing.T) {
	for _, kind := range state.Kinds {
		empty, err := state.DecodeBody(kind, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		v, n := reflect.New(reflect.TypeOf(empty)).Elem(), 0
		fill(v, &n)
		was := state.Event{Seq: 7, Time: epoch, Body: v.Interface().(state.Body)}
		if was.Body.Kind() != kind {
			t.Errorf("what is journaled as %s says that it is %s", kind, was.Body.Kind())
		}
		text, err := json.Marshal(was)
		if err != nil {
			t.Fatal(err)
		}
		var is state.Event
		if err := json.Unmarshal(text, &is); err != nil || !reflect.DeepEqual(is, was) {
			t.Errorf("%s\n%+v became\n%+v: %v", text, was, is, err)
		}
	}
}
