// SPDX-License-Identifier: MPL-2.0

package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// literal returns the text of a plain value that fits s. Nothing is ever computed: variables, functions and operators
// are refused. Numbers come back as they are written, because 1e999999999 is short only as long as nobody expands it.
func (d *decoder) literal(s setting, expression hclsyntax.Expression) (string, error) {
	source := oneLine(string(expression.Range().SliceBytes(d.source)))
	shown := quoteSource(source)
	if s.kind == kindSecret {
		shown = "the value (not shown)"
	}
	switch e := expression.(type) {
	case *hclsyntax.TemplateExpr:
		return d.quoted(s, e, shown)
	case *hclsyntax.LiteralValueExpr:
		if e.Val.IsNull() {
			return "", errors.New("null is not a value; leave the line out to have the default")
		}
		return fitting(s, e.Val.Type().FriendlyName(), source, shown)
	case *hclsyntax.UnaryOpExpr:
		if number, ok := e.Val.(*hclsyntax.LiteralValueExpr); ok && e.Op == hclsyntax.OpNegate {
			return fitting(s, number.Val.Type().FriendlyName(), source, shown)
		}
	case *hclsyntax.TupleConsExpr:
		if s.isList() {
			return "", errors.New("a list does not belong into a list")
		}
		return "", errors.New("takes one value, not a list")
	case *hclsyntax.ObjectConsExpr:
		return "", errors.New(`takes a plain value, not "{ }"`)
	case *hclsyntax.ScopeTraversalExpr:
		if len(e.Traversal) == 1 && s.kind != kindBool && s.kind != kindSecret {
			return "", fmt.Errorf("%s refers to a variable, and there are none; write \"%s\" in quotes", shown, cut(source))
		}
		return "", fmt.Errorf("%s refers to a variable, and there are none; write a plain value", shown)
	case *hclsyntax.TemplateWrapExpr:
		return "", noTemplates(shown)
	case *hclsyntax.BinaryOpExpr:
		if s.takesRanges() && e.Op == hclsyntax.OpSubtract {
			return "", fmt.Errorf("a range stands in quotes; write \"%s\"", cut(source))
		}
		if s.kind == kindDay && e.Op == hclsyntax.OpSubtract {
			return "", fmt.Errorf("a day stands in quotes; write \"%s\"", cut(source))
		}
	case *hclsyntax.FunctionCallExpr:
		return "", fmt.Errorf("%s calls a function, and there are none; write a plain value", shown)
	}
	return "", fmt.Errorf("%s is an expression; write a plain value", shown)
}

// quoted returns what stands between quotes.
func (d *decoder) quoted(s setting, template *hclsyntax.TemplateExpr, shown string) (string, error) {
	for _, part := range template.Parts {
		if _, plain := part.(*hclsyntax.LiteralValueExpr); !plain {
			return "", noTemplates(shown)
		}
	}
	value, diagnostics := template.Value(nil)
	if diagnostics.HasErrors() || value.IsNull() || value.Type().FriendlyName() != "string" {
		return "", noTemplates(shown)
	}
	if s.kind == kindBool {
		return "", fmt.Errorf("%s is a text; write true or false without quotes", shown)
	}
	return value.AsString(), nil
}

func noTemplates(shown string) error {
	return fmt.Errorf("%s refers to a variable, and there are none; write \"$${\" for a plain \"${\"", shown)
}

// fitting returns the text of an unquoted literal where s takes its type.
func fitting(s setting, is, source, shown string) (string, error) {
	switch {
	case s.kind == kindBool && is == "bool", (s.kind == kindPorts || s.kind == kindPort) && is == "number":
		return source, nil
	case s.kind == kindBool:
		return "", fmt.Errorf("%s is a %s; write true or false", shown, is)
	case s.kind == kindDuration && is == "number":
		return "", fmt.Errorf("%s has no unit; write \"%ss\" for seconds", shown, cut(source))
	case s.kind == kindSecret:
		return "", fmt.Errorf("%s is a %s; write it in quotes", shown, is)
	}
	return "", fmt.Errorf("%s is a %s; write \"%s\" in quotes", shown, is, cut(source))
}

// quoteSource shows a piece of a file: as it is where it brings its own quotes.
func quoteSource(source string) string {
	if strings.HasPrefix(source, `"`) && isPrintable(source) && len(source) <= maxQuoted {
		return source
	}
	return quote(source)
}

// cut returns text for a hint that shows it as it should be written; what is long or garbles the terminal is escaped.
func cut(text string) string {
	if isPrintable(text) && len(text) <= maxQuoted {
		return text
	}
	return strings.Trim(strings.TrimSuffix(quote(text), "..."), `"`) + "..."
}

// oneLine folds blanks and line ends into single blanks.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
