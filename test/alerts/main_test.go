// SPDX-License-Identifier: MPL-2.0

package main

import (
	"strings"
	"testing"
)

const served = `# TYPE hostagent_findings gauge
hostagent_findings{id="exposed-listener",severity="warning",state="open"} 0
hostagent_findings{id="agent-impostor",severity="critical",state="open"} 0
# TYPE hostagent_open_ports gauge
hostagent_open_ports 2
`

func TestCheck(t *testing.T) {
	s, err := readScrape([]byte(served))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		expr   string
		labels []string
		want   string // in the problem; empty for none
	}{
		{`sum by (instance, id) (hostagent_findings{severity="critical", state="open"}) > 0`, []string{"instance", "id"}, ""},
		{`up{job="hostagent"} == 0 unless on (instance) hostagent_open_ports > 1`, nil, ""},
		{`hostagent_findings{id!~"range-.*"} > 0`, []string{"severity"}, ""},
		{`hostagent_finding > 0`, nil, "serves nothing that hostagent_finding selects"},
		{`hostagent_findings{severity="fatal"} > 0`, nil, "serves nothing that"},
		{`hostagent_findings{kind!="x"} > 0`, nil, `has the label "kind"`},
		{`rate(hostagent_open_ports{id="x"}[5m])`, nil, "serves nothing that"},
		{`sum by (node) (hostagent_findings)`, nil, `groups by label "node"`},
		{`up == 0 unless on (node) hostagent_open_ports`, nil, `matches on label "node"`},
		{`hostagent_open_ports > 1`, []string{"id"}, `names label "id"`},
		{`hostagent_open_ports >`, nil, "parse error"},
	} {
		err := s.check(&expression{text: test.expr, labels: test.labels})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.expr, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want a problem with %q", test.expr, err, test.want)
		}
	}
}

func TestOfDashboard(t *testing.T) {
	got, err := ofDashboard([]byte(`{"templating": {"list": [
		{"name": "datasource", "type": "datasource", "query": "prometheus"},
		{"name": "host", "type": "query", "query": {"query": "label_values(hostagent_build_info{job=\"x\"}, instance)"}}]},
		"panels": [{"title": "row", "panels": [
			{"title": "p", "targets": [{"expr": "rate(up{instance=~\"$host\"}[$__rate_interval])", "legendFormat": "{{instance}} {{ job }}"}]}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].text != `hostagent_build_info{job="x"}` || got[0].labels[0] != "instance" ||
		got[1].text != `rate(up{instance=~".+"}[5m])` || strings.Join(got[1].labels, " ") != "instance job" {
		t.Errorf("read %+v", got)
	}
}
