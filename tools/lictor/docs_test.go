package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// parses says what is wrong with a command line, "" when lictor would take it.
// Words and values may be left out.
func parses(line string) string {
	root := (&app{environment: scriptEnvironment()}).root()
	c, rest, err := root.Find(twoDashes(root, strings.Fields(line)))
	if err == nil {
		err = c.ParseFlags(rest)
	}
	words := c.Flags().Args()
	switch {
	case err != nil && !errors.Is(err, pflag.ErrHelp) && !strings.Contains(err.Error(), "needs an argument"):
		return err.Error()
	case c.HasSubCommands() && c.Name() != "fleet" && len(words) > 0:
		return "there is no command " + words[0]
	}
	return ""
}

// The command line is that of the design.
func TestDesign(t *testing.T) {
	commands := []string{
		"register ID --node-name N --namespace N --partition P --netns PATH", "register ID --cgroup PATH", "register ID --any",
		"deregister ID", "proxies", "servers", "status", "events -f", "events --follow", "history ID", "bootstrap ID -o FILE",
		"exec ID --envoy PATH -- -l info", "drain SERVER --fleet", "undrain SERVER --fleet", "fleet",
		"journal verify", "journal export", "journal state --at 12", "journal recover", "doctor", "unload", "version",
		"completion bash", "completion zsh", "completion fish",
	}
	for _, line := range commands {
		if wrong := parses("--socket S --json " + line); wrong != "" {
			t.Errorf("lictor --socket S --json %s: %s", line, wrong)
		}
	}
	for _, c := range (&app{environment: scriptEnvironment()}).root().Commands() {
		if c.Hidden {
			continue
		}
		if !slices.ContainsFunc(commands, func(line string) bool { return strings.Fields(line)[0] == c.Name() }) {
			t.Errorf("lictor %s is not in the design", c.Name())
		}
	}
}

// What documents tell to type can be typed.
func TestDocsNameCommands(t *testing.T) {
	command := regexp.MustCompile("(?m)`lictor ([^`\n]+)`|^[#$] (?:ip netns exec \\S+ )?lictor (.*)$")
	flag := regexp.MustCompile("`--([a-z][a-z0-9-]+)[^`\n]*`")
	known := flags(t)
	commands := 0
	for _, path := range documents(t) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), "\\\n", " ")
		for _, match := range command.FindAllStringSubmatch(text, -1) {
			commands++
			if wrong := parses(match[1] + match[2]); wrong != "" {
				t.Errorf("%s has lictor %s: %s", path, match[1]+match[2], wrong)
			}
		}
		for _, match := range flag.FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("%s has --%s, a flag of nothing", path, match[1])
			}
		}
	}
	if commands < 50 {
		t.Errorf("only %d commands were found", commands)
	}
}

func documents(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "*/*.md", "*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	return paths
}

// flags are those of lictor's commands and of lictord, and Envoy's that lictor
// exec gives it.
func flags(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, name := range []string{
		"help", "config-file", "config-path", "log-format", "concurrency", "drain-time-s", "drain-strategy", "disable-hot-restart",
	} {
		all[name] = true
	}
	options, err := os.ReadFile("../../daemon/config/options.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`name: "([a-z0-9-]+)"`).FindAllStringSubmatch(string(options), -1) {
		all[match[1]] = true
	}
	var collect func(c *cobra.Command)
	collect = func(c *cobra.Command) {
		for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) { all[f.Name] = true })
		}
		for _, below := range c.Commands() {
			collect(below)
		}
	}
	collect((&app{environment: scriptEnvironment()}).root())
	return all
}
