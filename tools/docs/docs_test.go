// Package docs holds what is to be read. Its tests say that what the documents
// of the whole repository name is there.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

// document is a Markdown file.
type document struct {
	path string // below root
	text string
}

func documents(t *testing.T) (all []document) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		if err == nil && d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "bin") {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || filepath.Ext(name) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, path)
		all = append(all, document{below, string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Fatalf("only %d documents were found", len(all))
	}
	return all
}

// prose is a document without its blocks of code.
func (d document) prose() string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(d.text, "")
}

// at is the place that a path in the document means.
func (d document) at(path string) string { return filepath.Join(root, filepath.Dir(d.path), path) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Links lead to files and pictures that are there, and to headings in them.
func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"`)
	found := 0
	for _, d := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(d.prose(), -1) {
			target := match[1] + match[2]
			if strings.HasPrefix(target, "https://") {
				continue
			}
			found++
			path, anchor, _ := strings.Cut(target, "#")
			file := d.at(path)
			if path == "" {
				file = filepath.Join(root, d.path)
			}
			if !exists(file) {
				t.Errorf("%s leads to %s, which is not there", d.path, target)
			} else if anchor != "" && !headings(t, file)[anchor] {
				t.Errorf("%s leads to %s, which has no such heading", d.path, target)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d links were found", found)
	}
}

// headings are the anchors that GitHub makes of a document's headings.
func headings(t *testing.T, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(document{text: string(text)}.prose(), -1) {
		anchors[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, match[1])] = true
	}
	return anchors
}

// Files and folders of the source that are named in passing are there.
func TestPathsExist(t *testing.T) {
	span := regexp.MustCompile("`([^`\n]+)`")
	file := regexp.MustCompile(`^(\.\./)*[a-zA-Z0-9_./-]+(\.(go|c|h|bash|ts|tsx|js|css|html|yml|yaml|md)|_test)$|^(\.\./)*(kernel|state|daemon|tools)/[a-zA-Z0-9_./-]*$`)
	found := 0
	for _, d := range documents(t) {
		for _, match := range span.FindAllStringSubmatch(d.prose(), -1) {
			if !file.MatchString(match[1]) {
				continue
			}
			found++
			// From the document, from the root, or a file's name alone that is somewhere below.
			below, err := filepath.Glob(d.at("*/" + match[1]))
			if err != nil {
				t.Fatal(err)
			}
			if !exists(d.at(match[1])) && !exists(filepath.Join(root, match[1])) && len(below) == 0 {
				t.Errorf("%s names %s, which is not there", d.path, match[1])
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d paths were found", found)
	}
}

// What a reader is told to make can be made.
func TestMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?m)(?:`|^# )make ([a-z-]+)")
	found := 0
	for _, d := range documents(t) {
		for _, match := range command.FindAllStringSubmatch(d.text, -1) {
			found++
			if !regexp.MustCompile(`(?m)^` + match[1] + `:.* ## `).Match(makefile) {
				t.Errorf("%s tells to make %s, which the Makefile does not list", d.path, match[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d targets were found", found)
	}
}

// The README of the daemon has each of its packages, and what runs in it.
func TestDaemonIsWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "daemon", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(root, "daemon", "daemon.go"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "daemon"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || name == "lictord" || name == "api" || name == "testdata" {
			continue
		}
		if !strings.Contains(string(text), "\n| `"+name+"` |") {
			t.Errorf("daemon/README.md does not say what %s owns", name)
		}
	}
	_, group, _ := strings.Cut(string(text), "## The run group")
	group, _, _ = strings.Cut(group, "\n## ")
	runs := regexp.MustCompile(`(?m)^\t\t\{"([a-z]+)", `).FindAllStringSubmatch(string(source), -1)
	if len(runs) < 10 {
		t.Errorf("only %d parts of the run group were found", len(runs))
	}
	for _, match := range runs {
		if !strings.Contains(group, "`"+match[1]+"`") {
			t.Errorf("daemon/README.md does not have %s in the run group", match[1])
		}
	}
}
