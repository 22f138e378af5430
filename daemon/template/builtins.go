package template

import (
	"errors"
	"fmt"
	"reflect"
)

// logic is and, which ends at what is false, or or, at what is true.
type logic bool

// builtins are those functions of text/template that compare and look into values.
// Those that make texts are left to who parses a template.
var builtins = Funcs{
	"and": logic(false), "or": logic(true), "not": func(v reflect.Value) bool { return !truth(v) },
	"len": length, "index": index, "slice": slice,
	"eq": equal, "ne": unequal, "lt": less, "le": lessOrEqual,
	"gt": func(a, b reflect.Value) (bool, error) { le, err := lessOrEqual(a, b); return !le && err == nil, err },
	"ge": func(a, b reflect.Value) (bool, error) { lt, err := less(a, b); return !lt && err == nil, err },
}

var errNothing = errors.New("nothing to look into")

func length(v reflect.Value) (int, error) {
	v, _ = indirect(v)
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len(), nil
	}
	return 0, fmt.Errorf("%s has no length", kindOf(v))
}

// index gives x[1][2][3] for index x 1 2 3.
func index(v reflect.Value, at ...reflect.Value) (reflect.Value, error) {
	if !v.IsValid() {
		return v, errNothing
	}
	for _, i := range at {
		v, _ = indirect(v)
		switch v.Kind() {
		case reflect.Array, reflect.Slice, reflect.String:
			n, err := position(i, v.Len())
			if err != nil {
				return v, err
			}
			v = v.Index(n)
		case reflect.Map:
			k, err := fit(i, v.Type().Key())
			if err != nil {
				return v, err
			}
			if found := v.MapIndex(k); found.IsValid() {
				v = found
			} else {
				v = reflect.Zero(v.Type().Elem())
			}
		default:
			return v, fmt.Errorf("%s has no elements", kindOf(v))
		}
	}
	return v, nil
}

// slice gives x[1:2] for slice x 1 2.
func slice(v reflect.Value, at ...reflect.Value) (reflect.Value, error) {
	if v, _ = indirect(v); !v.IsValid() {
		return v, errNothing
	}
	var room int
	switch v.Kind() {
	case reflect.String:
		room = v.Len()
	case reflect.Array, reflect.Slice:
		room = v.Cap()
	default:
		return v, fmt.Errorf("%s has no parts", kindOf(v))
	}
	if len(at) > 3 || len(at) == 3 && v.Kind() == reflect.String {
		return v, fmt.Errorf("%d positions", len(at))
	}
	ends := []int{0, v.Len(), room}
	for i, a := range at {
		n, err := position(a, room)
		if err != nil {
			return v, err
		}
		ends[i] = n
	}
	if ends[0] > ends[1] || ends[1] > ends[2] {
		return v, fmt.Errorf("from %d to %d of %d", ends[0], ends[1], ends[2])
	}
	if len(at) < 3 {
		return v.Slice(ends[0], ends[1]), nil
	}
	return v.Slice3(ends[0], ends[1], ends[2]), nil
}

// position is an index of at most last.
func position(v reflect.Value, last int) (int, error) {
	var n int
	switch {
	case v.CanInt():
		n = int(v.Int())
	case v.CanUint():
		n = int(v.Uint())
	default:
		return 0, fmt.Errorf("%s is no position", kindOf(v))
	}
	if n < 0 || n > last {
		return 0, fmt.Errorf("position %d of %d", n, last)
	}
	return n, nil
}

var errNotComparable = errors.New("what is compared is not of one type")

// equal says whether the first is equal to one of the others.
func equal(a reflect.Value, others ...reflect.Value) (bool, error) {
	if len(others) == 0 {
		return false, errors.New("compared with nothing")
	}
	for _, b := range others {
		if same, err := same(a, b); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

func same(a, b reflect.Value) (bool, error) {
	switch {
	case a.CanInt() && b.CanUint():
		return a.Int() >= 0 && uint64(a.Int()) == b.Uint(), nil
	case a.CanUint() && b.CanInt():
		return same(b, a)
	case !a.IsValid() || !b.IsValid():
		return none(a) && none(b), nil
	case family(a) != family(b):
		return false, errNotComparable
	}
	switch family(a) {
	case reflect.Int:
		return a.Int() == b.Int(), nil
	case reflect.Uint:
		return a.Uint() == b.Uint(), nil
	case reflect.Float64:
		return a.Float() == b.Float(), nil
	case reflect.Complex128:
		return a.Complex() == b.Complex(), nil
	case reflect.String:
		return a.String() == b.String(), nil
	case reflect.Bool:
		return a.Bool() == b.Bool(), nil
	}
	if none(a) || none(b) {
		return none(a) && none(b), nil
	}
	if !b.Type().Comparable() {
		return false, fmt.Errorf("%s cannot be compared", kindOf(b))
	}
	return a.Interface() == b.Interface(), nil
}

func unequal(a, b reflect.Value) (bool, error) {
	eq, err := equal(a, b)
	return !eq && err == nil, err
}

func less(a, b reflect.Value) (bool, error) {
	switch {
	case a.CanInt() && b.CanUint():
		return a.Int() < 0 || uint64(a.Int()) < b.Uint(), nil
	case a.CanUint() && b.CanInt():
		return b.Int() >= 0 && a.Uint() < uint64(b.Int()), nil
	case family(a) != family(b):
		return false, errNotComparable
	}
	switch family(a) {
	case reflect.Int:
		return a.Int() < b.Int(), nil
	case reflect.Uint:
		return a.Uint() < b.Uint(), nil
	case reflect.Float64:
		return a.Float() < b.Float(), nil
	case reflect.String:
		return a.String() < b.String(), nil
	}
	return false, fmt.Errorf("%s has no order", kindOf(a))
}

func lessOrEqual(a, b reflect.Value) (bool, error) {
	lt, err := less(a, b)
	if lt || err != nil {
		return lt, err
	}
	return equal(a, b)
}

// family is the kind of a value, of several sizes the largest.
func family(v reflect.Value) reflect.Kind {
	switch {
	case v.CanInt():
		return reflect.Int
	case v.CanUint():
		return reflect.Uint
	case v.CanFloat():
		return reflect.Float64
	case v.CanComplex():
		return reflect.Complex128
	}
	return v.Kind()
}

// none says whether a value is nil, or missing.
func none(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Chan, reflect.Func, reflect.Interface, reflect.Map, reflect.Pointer, reflect.Slice:
		return v.IsNil()
	}
	return false
}

func kindOf(v reflect.Value) string {
	if !v.IsValid() {
		return "nothing"
	}
	return "a " + v.Type().String()
}
