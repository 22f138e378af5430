package prometheus

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	tool, err := Find(t.Context(), "promtool")
	if err != nil {
		testenv.Lacks(t, err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Prometheus takes the rules and the example, and each alert fires and is quiet
// when it has to.
func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", "lictor.rules.yml")
	promtool(t, "check", "config", "prometheus.example.yml")
	promtool(t, "test", "rules", "lictor.rules.test.yml")
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each alert has what a person needs who is woken by it: a severity, sentences,
// a section of the runbooks, and a test that it fires and one that it is quiet.
func TestEachAlertIsExplained(t *testing.T) {
	rules, tests := read(t, "lictor.rules.yml"), read(t, "lictor.rules.test.yml")
	book := read(t, "..", "docs", "runbooks.md")
	alerts := regexp.MustCompile(`(?m)^      - alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 10 {
		t.Fatalf("%d alerts are found", len(alerts))
	}
	for i, rest := range strings.Split(rules, "      - alert: ")[1:] {
		name := alerts[i][1]
		for _, want := range []string{
			"severity: ", "summary: ", "description: ", "runbooks.md#" + strings.ToLower(name) + "\n",
		} {
			if !strings.Contains(rest, want) {
				t.Errorf("%s has no %q", name, want)
			}
		}
		if !strings.Contains(book, "\n## "+name+"\n") {
			t.Errorf("%s has no section in the runbooks", name)
		}
		if !strings.Contains(tests, "alertname: "+name+"\n") || !strings.Contains(tests, "alertname: "+name+", exp_alerts: []") {
			t.Errorf("%s is not tested to fire, and to be quiet", name)
		}
	}
	for _, section := range regexp.MustCompile(`(?m)^## (Lictor\w+)$`).FindAllStringSubmatch(book, -1) {
		if !strings.Contains(rules, "alert: "+section[1]+"\n") {
			t.Errorf("the runbooks tell of %s, which is no alert", section[1])
		}
	}
}

// Nothing is asked for that lictord does not say.
func TestMetricsOfRulesAreThere(t *testing.T) {
	said := read(t, "..", "..", "daemon", "metrics", "testdata", "exposition.txt")
	recorded := regexp.MustCompile(`\w+:\w+:\w+`)
	rules := recorded.ReplaceAllString(read(t, "lictor.rules.yml"), "")
	for _, metric := range regexp.MustCompile(`\blictor_\w+`).FindAllString(rules, -1) {
		if !strings.Contains(said, "\n"+metric+"{") && !strings.Contains(said, "\n"+metric+" ") {
			t.Errorf("lictord has no metric %s", metric)
		}
	}
}

func TestHasten(t *testing.T) {
	got := string(Hasten([]byte("x: rate(a[5m]) > 5\nfor: 30s\nfor: 2h\nrecord: a:rate5m\n")))
	if want := "x: rate(a[5000ms]) > 5\nfor: 500ms\nfor: 120000ms\nrecord: a:rate5m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
