package grafana

import (
	"strings"
)

// Resolve puts values in the place of an expression's variables, as Grafana does
// before it asks: those given, and for $__rate_interval and $__range a minute
// where they are not.
func Resolve(expr string, values map[string]string) string {
	all := map[string]string{"__rate_interval": "1m", "__range": "1m"}
	for name, value := range values {
		all[name] = value
	}
	for name, value := range all {
		expr = strings.ReplaceAll(expr, "$"+name, value)
	}
	return expr
}
