// SPDX-License-Identifier: MPL-2.0

package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func day(text string) time.Time {
	d, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return d
}

// TestExemptibleFindings: the lists of this package name every finding of the catalog, each in one of them.
func TestExemptibleFindings(t *testing.T) {
	var want []string
	for _, e := range catalog.Entries() {
		want = append(want, string(e.ID))
	}
	got := append(exemptible(), aboutHost()...)
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("say of each finding whether it can be exempted (-catalog +lists)\n%s", diff)
	}
}

// TestExempt: blocks of several files append, in the order of the files, and keep what copies hold.
func TestExempt(t *testing.T) {
	got := mustLoad(t, `
-- 10.hcl --
exempt {
  finding = "exposed-listener"
  service = "web"
  reason  = "scraped by Prometheus until the migration"
  expires = "2027-01-31"
}
exempt {
  finding = "exposed-listener"
  service = "web"
  port    = "8080"
  reason  = "häßlich, aber gewollt"
  because = "firewall"
}
-- 20.hcl --
exempt {
  finding    = "squatted-port"
  executable = "/usr/bin/node exporter"
  port       = 21007
  reason     = "moves in spring"
  expires    = "2001-02-28"
}
`)
	want := []Exempt{
		{Finding: "exposed-listener", Service: "web", Reason: "scraped by Prometheus until the migration", Expires: day("2027-01-31")},
		{Finding: "exposed-listener", Service: "web", Port: 8080, Reason: "häßlich, aber gewollt", Because: BecauseFirewall},
		{Finding: "squatted-port", Port: 21007, Executable: "/usr/bin/node exporter", Reason: "moves in spring", Expires: day("2001-02-28")},
	}
	if diff := cmp.Diff(want, got.Exemptions); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBadExempt(t *testing.T) {
	for _, test := range []struct{ name, input, want string }{
		{"keys", `
finding = "exposed-listener"
exempt = {}
exmpt {
}
exempt "web" {
  findings = "exposed-listener"
  service = "web"
  mode = "guard"
  reason = "a"
  reason = "b"
  also {
  }
}
`, `
10.hcl:2: unknown key "finding"; it belongs into the block "exempt"
10.hcl:3: "exempt" is a block; write "exempt {" without "="
10.hcl:4: unknown block "exmpt"; did you mean "exempt"?
10.hcl:6: block "exempt" takes no label; write "exempt {"
10.hcl:7: unknown key "exempt.findings"; did you mean "finding"?
10.hcl:9: unknown key "exempt.mode"; it stands outside the blocks
10.hcl:11: key "exempt.reason" is set twice; first on line 10
10.hcl:12: unknown block "also" in block "exempt"
`},
		{"what is missing", `
-- 10.hcl --
exempt {
}
exempt {
  finding = "exposed-listener"
  reason  = "why"
}
-- 20.hcl --
exempt {
  finding = "exposed-listener"
  port    = 8080
}
exempt {
  port   = 8080
  reason = "why"
}
`, `
10.hcl:1: exempt: needs the key "finding"
10.hcl:3: exempt: needs one of the keys "service", "port" and "executable"
20.hcl:1: exempt: needs the key "reason"
20.hcl:5: exempt: needs the key "finding"
`},
		{"findings", `
exempt {
  finding = "exposed-listner"
  port    = 1
  reason  = "why"
}
exempt {
  finding = "firewall-drift"
  port    = 1
  reason  = "why"
}
exempt {
  finding = exposed-listener
  port    = 1
  reason  = "why"
}
exempt {
  finding = ""
  port    = 1
  reason  = "why"
}
exempt {
  finding = ["exposed-listener"]
  port    = 1
  reason  = "why"
}
`, `
10.hcl:3: exempt.finding: unknown value "exposed-listner"; did you mean "exposed-listener"?
10.hcl:8: exempt.finding: "firewall-drift" is about the host and not about a service, a port or a listener: it cannot be exempted
10.hcl:13: exempt.finding: "exposed-listener" refers to a variable, and there are none; write "exposed-listener" in quotes
10.hcl:18: exempt.finding: unknown value ""; write one of "exposed-listener", "exposed-sibling", "exposed-upstream", "exposed-admin", "exposed-consul-api", "squatted-port", "not-a-sidecar", "duplicate-port", "port-not-opened", "unconfirmed-claim", "sidecar-not-listening", "sidecar-loopback-only", "range-shared", "consul-port-blocked", "quarantine-refused"
10.hcl:23: exempt.finding: takes one value, not a list
`},
		{"values", `
exempt {
  finding    = "exposed-listener"
  service    = ""
  port       = 0
  executable = "node_exporter"
  reason     = ""
  expires    = "2027-02-31"
}
exempt {
  finding    = "exposed-listener"
  service    = "a\u001bb"
  port       = 65536
  executable = "/usr/bin/../bin/x"
  reason     = "two\nlines"
  expires    = 2027-01-31
}
exempt {
  finding    = "exposed-listener"
  service    = 5
  port       = "80-90"
  executable = "/usr/\u202e"
  reason     = "  "
  expires    = "31.1.2027"
}
exempt {
  finding    = "exposed-listener"
  service    = web
  port       = true
  executable = "/usr/bin/"
  reason     = null
  expires    = "0001-01-01"
}
exempt {
  finding    = "exposed-listener"
  port       = -1
  reason     = <<X
text
X
  expires    = "2027-01-31T00:00:00Z"
}
exempt {
  finding    = "exposed-listener"
  port       = 80.5
  reason     = "` + strings.Repeat("ü", 201) + `"
  expires    = 20270131
}
`, `
10.hcl:4: exempt.service: "" is not a name
10.hcl:5: exempt.port: "0" is not a port (1 to 65535)
10.hcl:6: exempt.executable: "node_exporter" is not an absolute path
10.hcl:7: exempt.reason: is empty; say why the finding is meant to be so
10.hcl:8: exempt.expires: there is no day "2027-02-31"
10.hcl:12: exempt.service: "a\x1bb" holds control characters
10.hcl:13: exempt.port: "65536" is not a port (1 to 65535)
10.hcl:14: exempt.executable: "/usr/bin/../bin/x" is not what the kernel calls it; write "/usr/bin/x"
10.hcl:15: exempt.reason: "two\nlines" is not one line of text
10.hcl:16: exempt.expires: a day stands in quotes; write "2027-01-31"
10.hcl:20: exempt.service: "5" is a number; write "5" in quotes
10.hcl:21: exempt.port: "80-90" is not a port (1 to 65535)
10.hcl:22: exempt.executable: "/usr/\u202e" holds control characters
10.hcl:23: exempt.reason: is empty; say why the finding is meant to be so
10.hcl:24: exempt.expires: "31.1.2027" is not a day; write year, month and day as in "2027-01-31"
10.hcl:28: exempt.service: "web" refers to a variable, and there are none; write "web" in quotes
10.hcl:29: exempt.port: "true" is a bool; write "true" in quotes
10.hcl:30: exempt.executable: "/usr/bin/" is not what the kernel calls it; write "/usr/bin"
10.hcl:31: exempt.reason: null is not a value; leave the line out to have the default
10.hcl:32: exempt.expires: "0001-01-01" is before the year 2000
10.hcl:36: exempt.port: "-1" is not a port (1 to 65535)
10.hcl:37: exempt.reason: "text\n" is not one line of text
10.hcl:40: exempt.expires: "2027-01-31T00:00:00Z" is not a day; write year, month and day as in "2027-01-31"
10.hcl:44: exempt.port: "80.5" is not a port (1 to 65535)
10.hcl:45: exempt.reason: has 201 characters; at most 200 are shown
10.hcl:46: exempt.expires: "20270131" is a number; write "20270131" in quotes
`},
		{"because", `
exempt {
  finding = "exposed-listener"
  port    = 8080
  reason  = "why"
  because = "fire"
}
exempt {
  finding = "exposed-listener"
  port    = 8081
  reason  = "why"
  because = ""
}
exempt {
  finding = "squatted-port"
  port    = 21007
  reason  = "why"
  because = "firewall"
}
`, `
10.hcl:6: exempt.because: unknown value "fire"; did you mean "firewall"?
10.hcl:12: exempt.because: unknown value ""; write one of "firewall"
10.hcl:14: exempt: the key "because" is for findings of what the network reaches (exposed-*), and "squatted-port" is none of them
`},
		{"twice, whatever the reasons", `
-- 10.hcl --
exempt {
  finding = "exposed-listener"
  port    = 8080
  reason  = "why"
}
exempt {
  finding = "exposed-listener"
  port    = "8080"
  reason  = "why not"
  because = "firewall"
  expires = "2027-01-31"
}
-- 20.hcl --
exempt {
  finding = "exposed-listener"
  port    = 8080
  reason  = "why"
}
`, `
10.hcl:6: exempt: another block exempts the same of "exposed-listener"; keep one of them (line 1)
20.hcl:1: exempt: another block exempts the same of "exposed-listener"; keep one of them (10.hcl:1)
`},
		{"too many", "-- 10.hcl --\n" + manyExempt(300, "a") + "-- 20.hcl --\n" + manyExempt(300, "b"), `
20.hcl:501: more than 400 blocks "exempt"
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, test.input)
			_, err := loadAndValidate()
			if diff := cmp.Diff(strings.TrimSpace(test.want), fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s\ngot:\n%s", diff, err)
			}
		})
	}
}

func manyExempt(n int, prefix string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "exempt {\n finding = \"exposed-listener\"\n service = \"%s%d\"\n reason = \"why\"\n}\n", prefix, i)
	}
	return b.String()
}

// TestValidateExemptions: what a caller sets by hand is held to the same.
func TestValidateExemptions(t *testing.T) {
	good := Exempt{Finding: "exposed-listener", Port: 8080, Reason: "why", Expires: day("2001-01-01")}
	for _, test := range []struct {
		want   string
		change func(*Exempt)
	}{
		{"<nil>", func(*Exempt) {}},
		{`exempt: needs the key "finding"`, func(x *Exempt) { x.Finding = "" }},
		{`exempt: needs one of the keys "service", "port" and "executable"`, func(x *Exempt) { x.Port = 0 }},
		{`exempt: needs the key "reason"`, func(x *Exempt) { x.Reason = "" }},
		{`exempt: "duplicate-port" is about no one service: nothing meets an exemption that names one with the key "service"`, func(x *Exempt) {
			x.Finding, x.Service = "duplicate-port", "web"
		}},
		{`exempt: "unconfirmed-claim" is about no port: nothing meets an exemption that names one with the key "port"`, func(x *Exempt) {
			x.Finding, x.Service = "unconfirmed-claim", "web"
		}},
		{`exempt: "port-not-opened" is about nothing that listens: nothing meets an exemption that names one with the key "executable"`, func(x *Exempt) {
			x.Finding, x.Executable = "port-not-opened", "/usr/bin/web"
		}},
		{`exempt.finding: "route-localnet" is about the host and not about a service, a port or a listener: it cannot be exempted`, func(x *Exempt) { x.Finding = "route-localnet" }},
		{`exempt.service: "\n" holds control characters`, func(x *Exempt) { x.Service = "\n" }},
		{`exempt.executable: "x" is not an absolute path`, func(x *Exempt) { x.Executable = "x" }},
		{`exempt.reason: "\a" is not one line of text`, func(x *Exempt) { x.Reason = "\a" }},
		{`exempt.expires: "1999-12-31" is before the year 2000`, func(x *Exempt) { x.Expires = day("1999-12-31") }},
	} {
		c := Default()
		c.Exemptions = []Exempt{good}
		test.change(&c.Exemptions[0])
		if diff := cmp.Diff(test.want, fmt.Sprint(c.Validate())); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	c := Default()
	c.Exemptions = []Exempt{good, good}
	var problems Errors
	if err := c.Validate(); !errors.As(err, &problems) || len(problems) != 1 {
		t.Errorf("two that exempt the same: %v", err)
	}
}
