package template

import (
	"fmt"
	"reflect"
	"strings"
	"text/template/parse"
)

// pipeline gives the value of a pipeline, and the variables that it declares or
// sets theirs.
func (s *state) pipeline(dot reflect.Value, p *parse.PipeNode) (value reflect.Value) {
	if p == nil {
		return value
	}
	var last []reflect.Value // of the command before; none for the first
	for _, c := range p.Cmds {
		value = concrete(s.command(dot, c, last))
		last = []reflect.Value{value}
	}
	for _, v := range p.Decl {
		if p.IsAssign {
			s.set(v.Ident[0], value)
		} else {
			s.vars = append(s.vars, variable{v.Ident[0], value})
		}
	}
	return value
}

// command gives the value of a command. last is what the one before has given,
// for a function's last argument.
func (s *state) command(dot reflect.Value, c *parse.CommandNode, last []reflect.Value) reflect.Value {
	if name, ok := c.Args[0].(*parse.IdentifierNode); ok {
		return s.call(dot, name.Ident, c.Args[1:], last)
	}
	if len(c.Args) > 1 || len(last) > 0 {
		fail("%s is no function and takes no argument", c.Args[0])
	}
	if c.Args[0].Type() == parse.NodeNil {
		fail("nil is no command")
	}
	return s.operand(dot, c.Args[0])
}

// operand gives the value of a part of a command.
func (s *state) operand(dot reflect.Value, node parse.Node) reflect.Value {
	switch n := node.(type) {
	case *parse.DotNode:
		return dot
	case *parse.NilNode:
		return reflect.Value{}
	case *parse.FieldNode:
		return fields(dot, n.Ident)
	case *parse.VariableNode:
		return fields(s.get(n.Ident[0]), n.Ident[1:])
	case *parse.ChainNode:
		if n.Node.Type() == parse.NodeNil {
			fail("nil has no fields, in %s", n)
		}
		return fields(s.operand(dot, n.Node), n.Field)
	case *parse.PipeNode:
		return s.pipeline(dot, n)
	case *parse.IdentifierNode:
		return s.call(dot, n.Ident, nil, nil)
	case *parse.BoolNode:
		return reflect.ValueOf(n.True)
	case *parse.StringNode:
		return reflect.ValueOf(n.Text)
	case *parse.NumberNode:
		return number(n)
	}
	fail("%s is not known", node)
	return reflect.Value{}
}

// number gives a constant the type that its spelling says.
func number(n *parse.NumberNode) reflect.Value {
	hex := strings.HasPrefix(strings.ToLower(n.Text), "0x") && !strings.ContainsAny(n.Text, "pP")
	switch {
	case n.IsComplex:
		return reflect.ValueOf(n.Complex128)
	case n.IsFloat && !hex && n.Text[0] != '\'' && strings.ContainsAny(n.Text, ".eEpP"):
		return reflect.ValueOf(n.Float64)
	case n.IsInt && int64(int(n.Int64)) == n.Int64:
		return reflect.ValueOf(int(n.Int64))
	}
	fail("%s is too large", n)
	return reflect.Value{}
}

// fields follows the names of fields, or of a map's entries.
func fields(v reflect.Value, names []string) reflect.Value {
	for _, name := range names {
		if !v.IsValid() {
			return v // what is missing has nothing, and is no error
		}
		of := v.Type()
		at, isNil := indirect(v)
		switch at.Kind() {
		case reflect.Struct:
			f, ok := at.Type().FieldByName(name)
			if !ok || !f.IsExported() {
				fail("there is no field %s in %s", name, of)
			}
			var err error
			if v, err = at.FieldByIndexErr(f.Index); err != nil {
				panic(failure{err})
			}
		case reflect.Map:
			if at.Type().Key().Kind() != reflect.String {
				fail("there is no field %s in %s", name, of)
			}
			v = at.MapIndex(reflect.ValueOf(name).Convert(at.Type().Key()))
		default:
			if isNil {
				fail("nil has no field %s", name)
			}
			fail("there is no field %s in %s", name, of)
		}
	}
	return v
}

// call calls a function with the values of args, and last.
func (s *state) call(dot reflect.Value, name string, args []parse.Node, last []reflect.Value) reflect.Value {
	given, own := s.t.funcs[name]
	if !own {
		given = builtins[name]
	}
	if lazy, ok := given.(logic); ok {
		return s.decide(dot, name, bool(lazy), args, last)
	}
	values := make([]reflect.Value, 0, len(args)+1)
	for _, a := range args {
		values = append(values, s.operand(dot, a))
	}
	result, err := invoke(reflect.ValueOf(given), append(values, last...))
	if err != nil {
		panic(failure{fmt.Errorf("%s: %w", name, err)})
	}
	return result
}

// decide is and, or, which look at no more of their arguments than they must.
func (s *state) decide(dot reflect.Value, name string, until bool, args []parse.Node, last []reflect.Value) (value reflect.Value) {
	if len(args)+len(last) == 0 {
		fail("%s: no argument", name)
	}
	for _, a := range args {
		if value = concrete(s.operand(dot, a)); truth(value) == until {
			return value
		}
	}
	for _, value = range last {
	}
	return value
}

var valueType = reflect.TypeFor[reflect.Value]()

// invoke calls a function after the types of what it takes were looked at. A panic
// within is an error.
func invoke(f reflect.Value, args []reflect.Value) (result reflect.Value, err error) {
	t := f.Type()
	if len(args) < t.NumIn() && !(t.IsVariadic() && len(args) == t.NumIn()-1) || len(args) > t.NumIn() && !t.IsVariadic() {
		return result, fmt.Errorf("%d arguments, and it takes %d", len(args), t.NumIn())
	}
	for i, a := range args {
		want := t.In(min(i, t.NumIn()-1))
		if t.IsVariadic() && i >= t.NumIn()-1 {
			want = want.Elem()
		}
		if args[i], err = fit(a, want); err != nil {
			return result, err
		}
	}
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	out := f.Call(args)
	if len(out) == 2 && !out[1].IsNil() {
		return result, out[1].Interface().(error)
	}
	result = out[0]
	if result.Type() == valueType {
		result = result.Interface().(reflect.Value)
	}
	return result, nil
}

// fit makes an argument one of the wanted type, if it is.
func fit(v reflect.Value, want reflect.Type) (reflect.Value, error) {
	if want == valueType {
		return reflect.ValueOf(concrete(v)), nil
	}
	if !v.IsValid() {
		if want.Kind() == reflect.Interface {
			return reflect.Zero(want), nil
		}
		return v, fmt.Errorf("nothing where a %s should be", want)
	}
	if v.Type().AssignableTo(want) {
		return v, nil
	}
	if c := concrete(v); c.IsValid() && c.Type().AssignableTo(want) {
		return c, nil
	}
	return v, fmt.Errorf("a %s where a %s should be", v.Type(), want)
}

// concrete looks into an interface.
func concrete(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Interface {
		return v.Elem()
	}
	return v
}

// indirect follows pointers and interfaces, up to one that is nil.
func indirect(v reflect.Value) (_ reflect.Value, isNil bool) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return v, true
		}
		v = v.Elem()
	}
	return v, false
}

// truth says whether a value is not the zero value of its type, or not empty. A
// struct always is.
func truth(v reflect.Value) bool {
	v = concrete(v)
	switch v.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() > 0
	case reflect.Struct:
		return true
	}
	return !v.IsZero()
}
