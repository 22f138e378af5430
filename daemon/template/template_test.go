package template

import (
	"bytes"
	"errors"
	"html"
	"strings"
	"testing"
	texttemplate "text/template"
)

// inner and outer have a field of each kind that templates look into.
type inner struct {
	Host string
	Port int
}

type outer struct {
	inner

	Name   string
	On     bool
	Count  uint64
	Ratio  float64
	List   []string
	Empty  []string
	Pairs  map[string]string
	Any    any
	None   any
	Ptr    *inner
	NilPtr *inner
	In     inner
	Rows   []inner
	Func   func()
	hidden string
}

var sample = outer{
	inner: inner{"h", 1}, Name: "web <1>", On: true, Count: 7, Ratio: 1.5, List: []string{"a", "b", "c"},
	Pairs: map[string]string{"k": "v"}, Any: "any", Ptr: &inner{"p", 2}, In: inner{"i", 3},
	Rows: []inner{{"x", 4}, {"y", 5}}, hidden: "h",
}

// functions are those of a template's owner. One of them is built in elsewhere.
var functions = map[string]any{
	"double": func(n int) int { return 2 * n },
	"join":   func(sep string, parts ...string) string { return strings.Join(parts, sep) },
	"print":  func(...any) (string, error) { return "", errors.New("not here") },
	"same":   func(v any) any { return v },
}

// theirs executes what text/template makes of the same.
func theirs(text string) (string, error) {
	t, err := texttemplate.New("t").Funcs(functions).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, sample)
	return b.String(), err
}

func ours(text string) (string, error) {
	t, err := Parse("t", text, functions, nil)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, sample)
	return b.String(), err
}

var texts = []string{
	"", "plain", "{{.Name}}", "{{ .Host }}:{{ .Port }}", "{{.In.Host}} {{.Ptr.Port}} {{(index .Rows 1).Host}}", "{{$.Name}}",
	"{{.Pairs.k}} {{.Pairs.none}} {{.Any}} {{.None}} {{.None.X}} {{.NilPtr}}", "{{.Ptr}} {{.List}} {{.Ratio}} {{.In}} {{.Rows}}",
	"{{.NilPtr.Host}}", "{{.Nothing}}", "{{.hidden}}", "{{.Any.X}}", "{{.Func}}", "{{.Name.X}}", "{{.Name 1}}", "{{nil}}", "{{1 2}}",
	"{{if .On}}yes{{else}}no{{end}}", "{{if .Empty}}yes{{else if .List}}list{{else}}no{{end}}", "{{if .None}}a{{end}}{{if .NilPtr}}b{{end}}{{if .In}}c{{end}}",
	"{{with .Ptr}}{{.Host}}{{$.Name}}{{end}}", "{{with .Empty}}x{{else}}y{{end}}", "{{with $x := .Name}}{{$x}}{{end}}", "{{with .Empty}}x{{else with .List}}{{.}}{{end}}",
	"{{range .List}}{{.}},{{end}}", "{{range .Empty}}{{.}}{{else}}none{{end}}", "{{range $i, $e := .List}}{{if $i}}, {{end}}{{$e}}{{end}}",
	"{{range $e := .Rows}}{{$e.Host}}{{$e.Port}};{{end}}", "{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}",
	"{{$x := 0}}{{range $x = .List}}{{$x}}{{end}}{{$x}}", "{{$i := 0}}{{$e := 0}}{{range $i, $e = .List}}{{end}}{{$i}}{{$e}}", "{{range .None}}x{{else}}y{{end}}",
	"{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{$y}}{{end}}{{$x}}", "{{/* nothing */}}{{- .Name -}} x",
	"{{eq 1 1}}{{eq .Count 7}}{{eq .Name \"a\" \"web <1>\"}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt 1.5 1.0}}{{ge \"b\" \"a\"}}", "{{eq .Port .Count}}{{lt .Port .Count}}{{lt .Count .Port}}",
	"{{eq 1 1.0}}", "{{eq 1}}", "{{lt true false}}", "{{lt 1 \"a\"}}", "{{eq .List .List}}", "{{eq .List nil}}", "{{eq .None nil}}{{eq .NilPtr nil}}{{eq nil nil}}{{eq .In .In}}", "{{eq .Func .Func}}", "{{ne .Name 1}}", "{{gt 1 nil}}", "{{ge .List .List}}", "{{eq .In .Name}}",
	"{{and 1 0}}{{and 0 .Nothing}}{{or 0 2}}{{or 1 .Nothing}}{{not .On}}{{and}}", "{{and .On .Name}}{{or .Empty .List}}{{.Name | and .On}}{{.Name | or .Empty}}{{0 | and 1}}", "{{not}}",
	"{{len .List}}{{len .Name}}{{len .Pairs}}{{len .Any}}", "{{len 3}}", "{{len .None}}", "{{len .NilPtr}}", "{{len nil}}",
	"{{index .List 1}}{{index .Pairs \"k\"}}{{index .Pairs \"x\"}}{{index .Name 0}}{{index .List}}", "{{index .List 3}}", "{{index .List -1}}", "{{index .List 4}}", "{{index .List \"a\"}}", "{{index .Pairs 1}}", "{{index .None 1}}", "{{index 1 1}}", "{{index .NilPtr 1}}", "{{index .List nil}}",
	"{{slice .Name 1 3}}{{slice .Name 1}}{{slice .Name}}{{slice .List 1 2}}{{slice .List 0 1 2}}", "{{slice .Name 3 1}}", "{{slice .Name 0 1 2}}", "{{slice .Name 99}}", "{{slice 1}}", "{{slice .None}}", "{{slice .List 0 1 2 3}}",
	"{{double 2}}{{2 | double}}{{.Port | double | double}}{{double (double 1)}}", "{{double \"a\"}}", "{{double}}", "{{double 1 2}}", "{{double .Any}}", "{{double 1.5}}", "{{double .Count}}", "{{double nil}}",
	"{{join \"-\" \"a\" \"b\"}}{{join \"-\"}}{{\"x\" | join \"-\" \"y\"}}{{join .Any .Name}}", "{{join}}", "{{join 1}}", "{{print 1}}", "{{same .None}}{{same nil}}{{same .Any | len}}", "{{(same .In).Host}}", "{{same}}",
	"{{1}}{{1.5}}{{0x10}}{{'a'}}{{1e3}}{{1i}}{{-3}}{{1_000}}{{true}}{{\"a\\n\"}}{{`b`}}", "{{99999999999999999999}}", "{{18446744073709551615}}", "{{0x1p4}}{{0xe}}",
	"{{nothing}}", "{{", "{{if}}", "{{.X", "{{end}}", "{{$x}}", "{{1 | 2}}", "{{.Name | .Name}}", "{{(.Name)}}{{(1)}}", "{{.List.X}}", "{{(index .List 0).X}}", "{{nil.X}}", "{{break}}",
}

// check compares with text/template: what is made is the same, and what is refused
// is refused there too, but for what this package leaves out.
func check(t *testing.T, text string) {
	t.Helper()
	got, err := ours(text)
	if errors.Is(err, ErrTemplates) || errors.Is(err, ErrNoList) {
		return
	}
	want, wantErr := theirs(text)
	if (err == nil) != (wantErr == nil) || err == nil && got != want {
		t.Errorf("%s\n gives %q, %v\n want  %q, %v", text, got, err, want, wantErr)
	}
}

func TestTheSameAsTextTemplate(t *testing.T) {
	for _, text := range texts {
		check(t, text)
	}
}

func FuzzTheSameAsTextTemplate(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, other := range []string{"call", "html", "js", "urlquery", "printf", "println", "double"} {
			if strings.Contains(text, other) {
				t.Skip("not built in here, or with a constant whose type is not that of the function")
			}
		}
		check(t, text)
	})
}

func TestWhatIsLeftOut(t *testing.T) {
	for text, want := range map[string]error{
		`{{define "x"}}y{{end}}`:      ErrTemplates,
		`{{block "x" .}}y{{end}}`:     ErrTemplates,
		`{{template "t" .}}`:          ErrTemplates,
		`{{range 1000000000}}{{end}}`: ErrNoList,
		`{{range .Pairs}}{{end}}`:     ErrNoList,
	} {
		if _, err := ours(text); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAnErrorSaysWhere(t *testing.T) {
	_, err := ours("a\nb {{if .On}}{{.Nothing}}{{end}}")
	if err == nil || !strings.Contains(err.Error(), "t:2:") || !strings.Contains(err.Error(), "{{.Nothing}}") {
		t.Error(err)
	}
}

// Methods is data that has one.
type methods struct{ Name string }

func (methods) Method() string { return "called" }

func TestNoMethodIsCalled(t *testing.T) {
	tmpl, err := Parse("t", "{{.Method}}", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, methods{}); err == nil {
		t.Errorf("gives %q", b.String())
	}
}

func TestWhatActionsWriteIsEscaped(t *testing.T) {
	tmpl, err := Parse("t", "<b>{{.Name}}{{range .List}}<{{.}}{{end}}", nil, html.EscapeString)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, sample); err != nil || b.String() != "<b>web &lt;1&gt;<a<b<c" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

type broken struct{ error }

func (w broken) Write([]byte) (int, error) { return 0, w.error }

func TestAWriteThatFailsEndsIt(t *testing.T) {
	tmpl, err := Parse("t", "x", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("full")
	if err := tmpl.Execute(broken{full}, nil); !errors.Is(err, full) {
		t.Error(err)
	}
}
