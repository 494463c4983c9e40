// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// expression is one of a file.
type expression struct {
	where  string   // the alert or the panel
	text   string   // what Prometheus evaluates
	labels []string // those that texts beside it name
}

var (
	// labelInText is how annotations of an alert name a label of its series.
	labelInText = regexp.MustCompile(`\$labels\.(\w+)`)
	// labelInLegend is how a legend of a dashboard does.
	labelInLegend = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
)

func namedIn(pattern *regexp.Regexp, text string) (names []string) {
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}

// ofRules reads a rule file as Prometheus does.
func ofRules(content []byte) ([]expression, error) {
	groups, errs := rulefmt.Parse(content, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return nil, errs[0]
	}
	var found []expression
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			e := expression{where: rule.Alert, text: rule.Expr}
			for _, text := range rule.Annotations {
				e.labels = append(e.labels, namedIn(labelInText, text)...)
			}
			found = append(found, e)
		}
	}
	return found, nil
}

// panel is what of a Grafana panel matters here. A row that is folded up holds panels of its own.
type panel struct {
	Title   string
	Panels  []panel
	Targets []struct{ Expr, LegendFormat string }
}

// ofDashboard reads a Grafana dashboard, its variables filled in as for all hosts.
func ofDashboard(content []byte) ([]expression, error) {
	var dashboard struct {
		Panels     []panel
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		return nil, err
	}
	fill := []string{"$__rate_interval", "5m", "$__range", "1h"}
	var found []expression
	for _, variable := range dashboard.Templating.List {
		fill = append(fill, "${"+variable.Name+"}", ".+", "$"+variable.Name, ".+")
		if variable.Type != "query" {
			continue
		}
		var query struct{ Query string }
		if err := json.Unmarshal(variable.Query, &query); err != nil {
			return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
		}
		selector, label, ok := valuesOf(query.Query)
		if !ok {
			return nil, fmt.Errorf("variable %s: %q is not label_values(SELECTOR, LABEL)", variable.Name, query.Query)
		}
		found = append(found, expression{where: "variable " + variable.Name, text: selector, labels: []string{label}})
	}
	for _, p := range flat(dashboard.Panels) {
		for _, target := range p.Targets {
			found = append(found, expression{where: p.Title, text: target.Expr, labels: namedIn(labelInLegend, target.LegendFormat)})
		}
	}
	replacer := strings.NewReplacer(fill...)
	for i := range found {
		found[i].text = replacer.Replace(found[i].text)
	}
	return found, nil
}

// valuesOf takes label_values(SELECTOR, LABEL) apart.
func valuesOf(query string) (selector, label string, ok bool) {
	match := regexp.MustCompile(`^label_values\((.+),\s*(\w+)\)$`).FindStringSubmatch(query)
	if match == nil {
		return "", "", false
	}
	return match[1], match[2], true
}

func flat(panels []panel) []panel {
	var all []panel
	for _, p := range panels {
		all = append(append(all, p), flat(p.Panels)...)
	}
	return all
}
