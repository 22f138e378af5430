package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const envPrefix = "LICTOR_"

// Kubernetes (and Docker before it) sets such variables in every pod for a
// service that happens to be called lictor or lictor-…: they are not ours to
// judge. A plain …_PORT is one of them when it holds a URL.
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var (
	linkName = regexp.MustCompile(`^LICTOR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	linkURL  = regexp.MustCompile(`^LICTOR_(\w+_)?PORT$`)
)

// readEnviron finds the options in environ. A variable that is set to the empty
// string is set. Of one that is given twice the first counts, as in os.Getenv.
func readEnviron(environ []string) (map[string]setting, error) {
	byKey := make(map[string]string, len(options))
	for _, o := range options {
		byKey[envKey(o.name)] = o.name
	}
	var errs []error
	got := make(map[string]setting)
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(key, envPrefix) {
			continue
		}
		name, known := byKey[key]
		switch {
		case !known && isServiceLink(key, value):
		case !known:
			errs = append(errs, fmt.Errorf("%s is set in the environment, but lictord has no such setting; unset it, or see lictord --help for the names", key))
		default:
			if _, twice := got[name]; !twice {
				got[name] = setting{value: value, from: key}
			}
		}
	}
	return got, errors.Join(errs...)
}

// isServiceLink tells LICTOR_CONSUL_PORT=tcp://… from a misspelt port.
func isServiceLink(key, value string) bool {
	return linkName.MatchString(key) || linkURL.MatchString(key) && strings.Contains(value, "://")
}

// envKey is the name of an option in the environment.
func envKey(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
