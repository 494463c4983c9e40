// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
)

// scrape is the series that hostagent served, by name, with the labels that Prometheus adds.
type scrape map[string][]labels.Labels

const instance = "10.0.0.10:9521" // any

// readScrape reads the text format. Prometheus itself adds the series up, and the labels job and instance.
func readScrape(text []byte) (scrape, error) {
	p, err := textparse.New(text, "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	served := scrape{}
	added := labels.FromStrings("job", "hostagent", "instance", instance)
	served["up"] = []labels.Labels{labels.FromStrings(labels.MetricName, "up", "job", "hostagent", "instance", instance)}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return served, nil
		}
		if err != nil {
			return nil, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		b := labels.NewBuilder(l)
		added.Range(func(label labels.Label) { b.Set(label.Name, label.Value) })
		name := l.Get(labels.MetricName)
		served[name] = append(served[name], b.Labels())
	}
}

// check returns what of e no series served can give.
func (s scrape) check(e *expression) error {
	root, err := parser.NewParser(parser.Options{}).ParseExpr(e.text)
	if err != nil {
		return err
	}
	var problems []error
	known := map[string]bool{}
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			problems = append(problems, s.matches(selector, known))
		}
		return nil
	})
	want := func(names []string, what string) {
		for _, name := range names {
			if !known[name] {
				problems = append(problems, fmt.Errorf("%s label %q, which none of its series has", what, name))
			}
		}
	}
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.AggregateExpr:
			want(node.Grouping, "it groups by")
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				want(slices.Concat(node.VectorMatching.MatchingLabels, node.VectorMatching.Include), "it matches on")
			}
		}
		return nil
	})
	want(e.labels, "its text names")
	return errors.Join(problems...)
}

// matches wants a series for a selector, and notes the labels of those that it finds.
func (s scrape) matches(selector *parser.VectorSelector, known map[string]bool) error {
	found := false
	for _, series := range s[selector.Name] {
		if !slices.ContainsFunc(selector.LabelMatchers, func(m *labels.Matcher) bool { return !m.Matches(series.Get(m.Name)) }) {
			found = true
			series.Range(func(label labels.Label) { known[label.Name] = true })
		}
	}
	for _, m := range selector.LabelMatchers {
		// A matcher that excludes matches series that lack its label, too.
		if found && !known[m.Name] {
			return fmt.Errorf("no series that %s selects has the label %q", selector, m.Name)
		}
	}
	if !found {
		return fmt.Errorf("hostagent serves nothing that %s selects", selector)
	}
	return nil
}
