package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// binder adds a flag to a set.
type binder = func(flags *pflag.FlagSet, name, usage string)

func text(p *string) binder {
	return func(flags *pflag.FlagSet, name, usage string) { flags.StringVar(p, name, *p, usage) }
}

func number(p *int) binder {
	return func(flags *pflag.FlagSet, name, usage string) { flags.IntVar(p, name, *p, usage) }
}

func truth(p *bool) binder {
	return func(flags *pflag.FlagSet, name, usage string) { flags.BoolVar(p, name, *p, usage) }
}

func duration(p *time.Duration) binder {
	return func(flags *pflag.FlagSet, name, usage string) { flags.DurationVar(p, name, *p, usage) }
}

// pairs is a flag of KEY=VALUE that may be given again.
func pairs(p *map[string]string) binder {
	return func(flags *pflag.FlagSet, name, usage string) { flags.Var((*pairValue)(p), name, usage) }
}

type pairValue map[string]string

// Set adds an entry; a later one of the same key replaces it.
func (v *pairValue) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return errors.New("it is not of the form KEY=VALUE")
	}
	if *v == nil {
		*v = pairValue{}
	}
	(*v)[key] = value
	return nil
}

// String is for the usage text.
func (v *pairValue) String() string { return strings.Join(pairList(*v), ",") }

// Type is for the usage text.
func (v *pairValue) Type() string { return "KEY=VALUE" }

// pairList is a map as Set takes it, in order.
func pairList(m map[string]string) (list []string) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+"="+m[key])
	}
	return list
}

// unlisted is a flag that is not in the usage text: an old name, or one that is
// taken to be refused with a reason.
func unlisted(bind binder) binder {
	return func(flags *pflag.FlagSet, name, usage string) {
		bind(flags, name, usage)
		flags.Lookup(name).Hidden = true
	}
}

// unneeded is a flag that is taken and changes nothing: lictord knows what it
// says. It is not in the usage text.
func unneeded(usual string) binder {
	return func(flags *pflag.FlagSet, name, usage string) {
		f := flags.VarPF(&ignoredValue{value: usual}, name, "", usage)
		f.Hidden = true
		if usual == "true" || usual == "false" {
			f.NoOptDefVal = "true"
		}
	}
}

type ignoredValue struct{ value string }

func (v *ignoredValue) Set(s string) error { v.value = s; return nil }
func (v *ignoredValue) String() string     { return v.value }
func (v *ignoredValue) Type() string       { return "string" }

// twoDashes gives the flags of lictor exec the second dash that people leave
// out, since consul-dataplane takes one: -proxy-id. What is behind -- is
// Envoy's and stays as it is, as do other commands' flags.
func twoDashes(root *cobra.Command, args []string) []string {
	c, _, err := root.Find(args)
	if err != nil || c.Name() != execName {
		return args
	}
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if len(name) > 1 && arg[0] == '-' && (c.Flags().Lookup(name) != nil || c.InheritedFlags().Lookup(name) != nil) {
			out[i] = "-" + arg
		}
	}
	return out
}
