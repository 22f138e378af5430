// Package template executes what Go templates need here, without package
// text/template.
//
// It reads templates with text/template/parse and means the same by them, with
// one exception: it calls no methods of the data. Package text/template looks
// methods up by name, and a program in which that can be reached keeps every
// exported method of every type: three megabytes of lictord's code, and as much of
// tables. Associated templates (define, block, template) and loops over other
// things than lists are refused too, and a constant has the type that its spelling
// says, whatever a function takes; nobody here has need of more.
package template

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"text/template/parse"
)

// Funcs are functions by the names that templates use. Each returns a value, or a
// value and an error, which ends the execution. One of the name of a built-in
// function takes its place.
type Funcs map[string]any

// Template is a parsed template. It is not changed by executing it, and may be
// executed concurrently.
type Template struct {
	tree   *parse.Tree
	funcs  Funcs
	escape func(string) string
}

// ErrTemplates is returned for a text that has other templates inside of it, or
// calls for them.
var ErrTemplates = errors.New("templates inside of it are not allowed")

// ErrNoList is returned for a loop over something else than a list.
var ErrNoList = errors.New("is no list")

// Parse reads a template. What its actions write goes through escape; nil writes
// it as it is.
func Parse(name, text string, funcs Funcs, escape func(string) string) (*Template, error) {
	trees, err := parse.Parse(name, text, "", "", funcs, builtins)
	if err != nil {
		return nil, err
	}
	if len(trees) > 1 {
		return nil, ErrTemplates
	}
	return &Template{tree: trees[name], funcs: funcs, escape: escape}, nil
}

// Root is what the template consists of. It is not to be changed.
func (t *Template) Root() *parse.ListNode { return t.tree.Root }

// Execute writes what the template makes of data. An error says where; some of it
// may have been written by then.
func (t *Template) Execute(w io.Writer, data any) (err error) {
	dot := reflect.ValueOf(data)
	s := &state{t: t, w: w, at: t.tree.Root, vars: []variable{{"$", dot}}}
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case failure:
			where, what := t.tree.ErrorContext(s.at)
			err = fmt.Errorf("%s: %s: %w", where, what, fault.error)
		default:
			panic(fault)
		}
	}()
	s.walk(dot, t.tree.Root)
	return nil
}

// failure ends an execution from within.
type failure struct{ error }

func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// state is an execution.
type state struct {
	t    *Template
	w    io.Writer
	at   parse.Node // what is being executed, for errors
	vars []variable
}

type variable struct {
	name  string
	value reflect.Value
}

// step says how a loop goes on.
type step int

const (
	onward step = iota
	nextRound
	leave
)

func (s *state) walk(dot reflect.Value, node parse.Node) step {
	s.at = node
	switch n := node.(type) {
	case *parse.ListNode:
		for _, one := range n.Nodes {
			if next := s.walk(dot, one); next != onward {
				return next
			}
		}
	case *parse.TextNode:
		s.write(n.Text)
	case *parse.ActionNode:
		if value := s.pipeline(dot, n.Pipe); len(n.Pipe.Decl) == 0 {
			s.print(n, value)
		}
	case *parse.IfNode:
		return s.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return s.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return s.loop(dot, n)
	case *parse.BreakNode:
		return leave
	case *parse.ContinueNode:
		return nextRound
	case *parse.CommentNode:
	case *parse.TemplateNode:
		panic(failure{ErrTemplates})
	default:
		fail("%s is not known", node)
	}
	return onward
}

func (s *state) write(text []byte) {
	if _, err := s.w.Write(text); err != nil {
		panic(failure{err})
	}
}

func (s *state) print(n parse.Node, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v, _ = indirect(v)
	}
	text := "<no value>"
	switch v.Kind() {
	case reflect.Invalid:
	case reflect.Chan, reflect.Func:
		fail("%s is a %s, which has no text", n, v.Type())
	default:
		text = fmt.Sprint(v.Interface())
	}
	if s.t.escape != nil {
		text = s.t.escape(text)
	}
	s.write([]byte(text))
}

// branch is if, or with, which sets dot.
func (s *state) branch(dot reflect.Value, n *parse.BranchNode, with bool) step {
	defer s.forget(len(s.vars))
	value := s.pipeline(dot, n.Pipe)
	switch {
	case truth(value) && with:
		return s.walk(value, n.List)
	case truth(value):
		return s.walk(dot, n.List)
	case n.ElseList != nil:
		return s.walk(dot, n.ElseList)
	}
	return onward
}

func (s *state) loop(dot reflect.Value, n *parse.RangeNode) step {
	defer s.forget(len(s.vars))
	list, _ := indirect(s.pipeline(dot, n.Pipe))
	declared := len(s.vars)
	switch list.Kind() {
	case reflect.Array, reflect.Slice:
	case reflect.Invalid:
		list = reflect.ValueOf([]any{})
	default:
		fail("%s, a %s, %w", n.Pipe, list.Type(), ErrNoList)
	}
	if list.Len() == 0 && n.ElseList != nil {
		return s.walk(dot, n.ElseList)
	}
	for i := range list.Len() {
		s.round(n.Pipe, reflect.ValueOf(i), list.Index(i))
		next := s.walk(list.Index(i), n.List)
		s.forget(declared)
		if next == leave {
			break
		}
	}
	return onward
}

// round gives the variables of a loop their values: the element, or the index and
// the element. Those that are declared are the last ones.
func (s *state) round(p *parse.PipeNode, values ...reflect.Value) {
	values = values[len(values)-len(p.Decl):]
	for i, v := range p.Decl {
		if p.IsAssign {
			s.set(v.Ident[0], values[i])
		} else {
			s.vars[len(s.vars)-len(p.Decl)+i].value = values[i]
		}
	}
}

// forget drops the variables beyond the first n.
func (s *state) forget(n int) { s.vars = s.vars[:n] }

func (s *state) set(name string, value reflect.Value) {
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == name {
			s.vars[i].value = value
			return
		}
	}
	fail("variable %s is not declared", name)
}

func (s *state) get(name string) reflect.Value {
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == name {
			return s.vars[i].value
		}
	}
	fail("variable %s is not declared", name)
	return reflect.Value{}
}
