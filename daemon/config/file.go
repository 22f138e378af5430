package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// maxFile bounds a config file, in bytes: the parser recurses on nesting, so
// that an endless file could exhaust the stack. All settings together are 2 kB.
const maxFile = 64 << 10

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the file of --%s: %w", configFile, err)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read the file of --%s: %w", configFile, err)
	}
	return src, nil
}

// decodeFile finds the options in a config file. The name only tells the format
// and stands in error messages.
func decodeFile(name string, src []byte) (map[string]setting, error) {
	if len(src) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d kB; is it a config file?", name, maxFile>>10)
	}
	var (
		file  *hcl.File
		diags hcl.Diagnostics
	)
	switch filepath.Ext(name) {
	case ".hcl":
		file, diags = hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	case ".json":
		file, diags = hcljson.Parse(src, name)
	default:
		return nil, fmt.Errorf("%s: the name must end in .hcl or .json, as that tells the format", name)
	}
	if diags.HasErrors() {
		return nil, sentences(name, diags)
	}
	schema := &hcl.BodySchema{}
	for _, o := range options {
		if o.name != configFile {
			schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: fileKey(o.name)})
		}
	}
	content, diags := file.Body.Content(schema)
	if diags.HasErrors() {
		return nil, sentences(name, diags)
	}
	var errs []error
	got := make(map[string]setting)
	for _, o := range options {
		attr, ok := content.Attributes[fileKey(o.name)]
		if !ok {
			continue
		}
		from := fmt.Sprintf("%s:%d: %s", name, attr.NameRange.Start.Line, attr.Name)
		value, diags := attr.Expr.Value(nil)
		if diags.HasErrors() {
			errs = append(errs, sentences(name, diags))
			continue
		}
		text, err := asText(value, o.list)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from, err))
			continue
		}
		got[o.name] = setting{value: text, from: from}
	}
	return got, errors.Join(errs...)
}

// asText writes a value of the file in the flag's notation: a list, where there
// may be one, as its elements with commas between.
func asText(v cty.Value, list bool) (string, error) {
	if v.IsNull() {
		return "", fmt.Errorf("has no value; give one, or leave the key out")
	}
	if list && v.Type().IsTupleType() {
		var parts []string
		for it := v.ElementIterator(); it.Next(); {
			_, element := it.Element()
			part, err := asText(element, false)
			if err != nil {
				return "", fmt.Errorf("an element of the list %w", err)
			}
			if strings.Contains(part, ",") || strings.HasPrefix(part, catalog.ExecPrefix) {
				return "", fmt.Errorf("%q stands alone: write it as one string, not in a list", part)
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil || !s.IsKnown() {
		return "", fmt.Errorf("wants a plain value, not %s", v.Type().FriendlyName())
	}
	return s.AsString(), nil
}

// sentences makes one line of each diagnostic, with file and line in front.
func sentences(name string, diags hcl.Diagnostics) error {
	var errs []error
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		where := name
		if d.Subject != nil {
			where = fmt.Sprintf("%s:%d", name, d.Subject.Start.Line)
		}
		text := strings.Join(strings.Fields(d.Detail), " ") + hints[d.Summary]
		errs = append(errs, fmt.Errorf("%s: %s", where, text))
	}
	return errors.Join(errs...)
}

// hints say what to do where a diagnostic of that summary does not.
var hints = map[string]string{
	"Unsupported argument":            knownKeys,
	"Unsupported block type":          knownKeys,
	"Extraneous JSON object property": knownKeys,
	"Variables not allowed":           " A text stands in quotes.",
}

const knownKeys = " The keys are the flags that lictord --help lists, with underscores."
