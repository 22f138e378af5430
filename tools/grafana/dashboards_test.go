package grafana

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/lictor-mesh/lictor/tools/prometheus"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var update = flag.Bool("update", false, "write the dashboards' JSON anew")

// What is committed is what the Go code makes.
func TestFresh(t *testing.T) {
	for name, d := range All() {
		want, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("dashboards", name+".json")
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code makes (%v): run go generate ./tools/grafana", path, err)
		}
	}
}

// each calls fn with every panel, in a subtest of its name.
func each(t *testing.T, fn func(t *testing.T, p Panel)) {
	for name, d := range All() {
		for _, p := range d.Panels {
			t.Run(name+"/"+p.Title, func(t *testing.T) { fn(t, p) })
		}
	}
}

// Each panel asks a question, has a unit, and says what to do.
func TestPanelsExplainThemselves(t *testing.T) {
	units := []string{number, share, perSecond, seconds, duration, size, sizes, portion, verdict}
	each(t, func(t *testing.T, p Panel) {
		if !strings.HasSuffix(p.Title, "?") {
			t.Errorf("the title asks no question")
		}
		if len(p.Description) < 60 {
			t.Errorf("the description says too little: %q", p.Description)
		}
		if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			t.Errorf("the unit is %q", p.FieldConfig.Defaults.Unit)
		}
		if len(p.Targets) == 0 {
			t.Errorf("nothing is asked")
		}
	})
}

// Runbooks that panels name are there.
func TestRunbooksAreThere(t *testing.T) {
	book, err := os.ReadFile(filepath.Join("..", "docs", "runbooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]bool{}
	each(t, func(t *testing.T, p Panel) {
		titles[p.Title] = true
		for _, name := range regexp.MustCompile(`\bLictor[A-Z]\w+`).FindAllString(p.Description, -1) {
			if !strings.Contains(string(book), "\n## "+name+"\n") {
				t.Errorf("there is no runbook %s", name)
			}
		}
	})
	for _, quoted := range regexp.MustCompile(`"([A-Z][^"]+\?)"`).FindAllStringSubmatch(string(book), -1) {
		if title := strings.Join(strings.Fields(quoted[1]), " "); !titles[title] {
			t.Errorf("the runbooks name a panel %q, which is none", title)
		}
	}
}

// Panels fill the width and do not lie on each other; ids and titles are unique.
func TestLayout(t *testing.T) {
	for name, d := range All() {
		ids, titles, cells := map[int]bool{}, map[string]bool{}, map[[2]int]bool{}
		bottom := 0
		for _, p := range d.Panels {
			if ids[p.ID] || titles[p.Title] {
				t.Errorf("%s: panel %d %q is there twice", name, p.ID, p.Title)
			}
			ids[p.ID], titles[p.Title] = true, true
			g := p.GridPos
			bottom = max(bottom, g.Y+g.H)
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if cells[[2]int{x, y}] || x >= 24 {
						t.Fatalf("%s: %q lies on another panel, or beside the dashboard", name, p.Title)
					}
					cells[[2]int{x, y}] = true
				}
			}
		}
		if len(cells) != 24*bottom {
			t.Errorf("%s has holes", name)
		}
	}
}

// The JSON is what Grafana's own types say, panel by panel.
func TestSchema(t *testing.T) {
	compiler := jsonschema.NewCompiler()
	valid := func(t *testing.T, kind string, v any) {
		t.Helper()
		schema, err := compiler.Compile(filepath.Join("schema", kind+".json"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(plain); err != nil {
			t.Errorf("Grafana's types do not allow it: %v", err)
		}
	}
	for name, d := range All() {
		t.Run(name, func(t *testing.T) { valid(t, "dashboard", d) })
	}
	each(t, func(t *testing.T, p Panel) { valid(t, p.Type, p) })

	// It finds what is wrong.
	schema, err := compiler.Compile(filepath.Join("schema", "stat.json"))
	if err != nil {
		t.Fatal(err)
	}
	if schema.Validate(map[string]any{"type": "stat", "titel": "x"}) == nil {
		t.Error("the schema allows anything")
	}
}

// Prometheus' own parser takes each query, and asks for metrics that there are.
func TestQueries(t *testing.T) {
	said, err := os.ReadFile(filepath.Join("..", "..", "daemon", "metrics", "testdata", "exposition.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var rules strings.Builder
	rules.WriteString("groups: [{name: panels, rules: [\n")
	each(t, func(t *testing.T, p Panel) {
		for _, target := range p.Targets {
			for _, metric := range regexp.MustCompile(`\blictor_\w+`).FindAllString(target.Expr, -1) {
				if !bytes.Contains(said, []byte("\n"+metric+"{")) && !bytes.Contains(said, []byte("\n"+metric+" ")) {
					t.Errorf("lictord has no metric %s", metric)
				}
			}
			expr, err := json.Marshal(Resolve(target.Expr, map[string]string{"job": ".+", "instance": "host"}))
			if err != nil {
				t.Fatal(err)
			}
			rules.WriteString(`{record: "a:b:c", expr: ` + string(expr) + "},\n")
		}
	})
	rules.WriteString("]}]\n")
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	tool, err := prometheus.Find(t.Context(), "promtool")
	if err != nil {
		testenv.Lacks(t, err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "check", "rules", "--lint=none", path).CombinedOutput()
	if err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// Provisioning leads to what is there.
func TestProvisioning(t *testing.T) {
	for path, want := range map[string]string{
		"provisioning/datasources/prometheus.yml": "timeInterval: 15s",
		"provisioning/dashboards/lictor.yml":      "path: /var/lib/grafana/dashboards/lictor",
	} {
		if text, err := os.ReadFile(filepath.FromSlash(path)); err != nil || !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s: %v, %q is not in it", path, err, want)
		}
	}
}
