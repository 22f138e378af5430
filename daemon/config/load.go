package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// ErrHelp and ErrVersion are returned by Load when --help or --version was
// asked for: the caller prints Usage or the version and exits with 0.
var (
	ErrHelp    = errors.New("help asked for")
	ErrVersion = errors.New("version asked for")
)

// setting is a value as somebody wrote it.
type setting struct {
	value string
	from  string // flag, variable, or file and line, for error messages
}

// Load makes the configuration from args (without the program's name), environ
// (as os.Environ gives it) and the file that either of them names. It returns
// ErrHelp, ErrVersion, or an error with one line for each thing that is wrong,
// which says where it was set and what to do. It reads the config file and the
// host's name, and nothing else of the machine.
func Load(args, environ []string) (Config, error) {
	flags, err := readFlags(args)
	if err != nil {
		return Config{}, err
	}
	env, err := readEnviron(environ)
	if err != nil {
		return Config{}, err
	}
	var file map[string]setting
	if path := overlay(env, flags)[configFile].value; path != "" {
		if err := checkLength(path); err != nil {
			return Config{}, fmt.Errorf("--%s: %w", configFile, err)
		}
		src, err := readFile(path)
		if err != nil {
			return Config{}, err
		}
		if file, err = decodeFile(path, src); err != nil {
			return Config{}, err
		}
	}
	return build(overlay(file, env, flags))
}

// build applies the settings over the defaults and checks the whole.
func build(settings map[string]setting) (Config, error) {
	var (
		c    Config
		errs []error
	)
	for _, o := range options {
		s, ok := settings[o.name]
		if !ok {
			s = setting{value: o.def, from: "--" + o.name}
			if o.def == "" {
				continue
			}
		}
		err := checkLength(s.value)
		if err == nil {
			err = o.set(&c, s.value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.from, err))
		}
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return Config{}, fmt.Errorf("read the host's name: %w; set --node-name", err)
		}
		c.NodeName = name
	}
	if err := check(c); err != nil {
		return Config{}, err
	}
	_, portSet := settings["consul-http-port"]
	c.Warnings = warnings(c, portSet)
	return c, nil
}

// maxValue bounds a value, in bytes: no path is longer (PATH_MAX), and a list of
// servers' names need not be. A complaint repeats the value.
const maxValue = 4096

func checkLength(v string) error {
	if len(v) > maxValue {
		return fmt.Errorf("the value is %d bytes long, and at most %d are taken", len(v), maxValue)
	}
	return nil
}

// overlay merges layers; a later one wins.
func overlay(layers ...map[string]setting) map[string]setting {
	all := make(map[string]setting)
	for _, l := range layers {
		for k, v := range l {
			all[k] = v
		}
	}
	return all
}

// textFlag keeps a flag's value as it was written, so that all sources are
// parsed by the same code.
type textFlag struct {
	text  string
	value string // as in option
}

func (f *textFlag) String() string     { return f.text }
func (f *textFlag) Set(v string) error { f.text = v; return nil }
func (f *textFlag) Type() string       { return f.value }

func readFlags(args []string) (map[string]setting, error) {
	set := pflag.NewFlagSet("lictord", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	for _, o := range options {
		f := set.VarPF(&textFlag{value: o.value}, o.name, "", o.help)
		if o.isSwitch() {
			f.NoOptDefVal = "true"
		}
	}
	help := set.BoolP("help", "h", false, "")
	version := set.Bool("version", false, "")
	if err := set.Parse(args); err != nil {
		return nil, fmt.Errorf("%w; lictord --help lists the flags", err)
	}
	switch {
	case *help:
		return nil, ErrHelp
	case *version:
		return nil, ErrVersion
	case set.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: lictord takes flags only, see lictord --help", set.Arg(0))
	}
	got := make(map[string]setting)
	set.Visit(func(f *pflag.Flag) {
		if text, ok := f.Value.(*textFlag); ok {
			got[f.Name] = setting{value: text.text, from: "--" + f.Name}
		}
	})
	return got, nil
}

// fileKey is the name of an option in a config file.
func fileKey(name string) string { return strings.ReplaceAll(name, "-", "_") }
