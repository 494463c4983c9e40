// SPDX-License-Identifier: MPL-2.0

package config

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// under loads the files of an archive over those whose names begin with "kv:".
func under(t *testing.T, archive string) (*Config, error) {
	t.Helper()
	files, documents := new(txtar.Archive), []Document(nil)
	for _, file := range txtar.Parse([]byte(archive)).Files {
		if strings.HasPrefix(file.Name, "kv:") {
			documents = append(documents, Document{file.Name, file.Data})
		} else {
			files.Files = append(files.Files, file)
		}
	}
	if len(files.Files) == 0 {
		files.Files = []txtar.File{{Name: "10.hcl"}}
	}
	write(t, string(txtar.Format(files)))
	c, err := LoadOver(documents, ".")
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
}

func TestLoadOver(t *testing.T) {
	source := func(text string) Source { return Source{Network: netip.MustParsePrefix(text)} }
	second, none := time.Second, time.Duration(0)
	for _, test := range []struct {
		name, input string
		want        func(*Config)
	}{
		{"nothing", "", func(*Config) {}},
		{"everything that is free", `
-- kv:hostagent/all.hcl --
allow_from  = ["10.0.0.0/8", "cluster"]
close_delay = "1m"
exempt {
  finding = "exposed-listener"
  port    = 9100
  reason  = "scraped"
}
report {
  enabled = false
  detail  = "counts"
  spread  = "1s"
}
`, func(c *Config) {
			c.AllowFrom, c.CloseDelay = []Source{source("10.0.0.0/8"), {Cluster: true}}, time.Minute
			c.Exemptions = []Exempt{{Finding: "exposed-listener", Port: 9100, Reason: "scraped", FromKV: true}}
			c.Report.Enabled, c.Report.Detail, c.Report.Spread = false, ReportCounts, &second
		}},
		{"and what a host has to allow", `
-- 10.hcl --
kv_may_enforce   = true
quarantine_ports = [8080]
-- kv:hostagent/all.hcl --
mode    = "guard"
enforce = "quarantine"
report {
  on                = "service"
  status            = "critical"
  warning_services  = ["a"]
  critical_services = ["b"]
}
`, func(c *Config) {
			c.KVMayEnforce, c.QuarantinePorts = true, []PortRange{{8080, 8080}}
			c.Mode, c.Enforce = ModeGuard, EnforceQuarantine
			c.Report.On, c.Report.Status = ReportOnService, ReportCritical
			c.Report.WarningServices, c.Report.CriticalServices = []string{"a"}, []string{"b"}
		}},
		{"files win, even with what the defaults say", `
-- 10.hcl --
close_delay = "30s"
allow_from  = ["192.0.2.0/24"]
report {
  detail = "full"
  spread = "0s"
}
-- kv:hostagent/all.hcl --
close_delay = "1m"
allow_from  = ["10.0.0.0/8"]
report {
  enabled = false
  detail  = "counts"
  spread  = "auto"
}
`, func(c *Config) {
			c.AllowFrom, c.Report.Enabled, c.Report.Spread = []Source{source("192.0.2.0/24")}, false, &none
		}},
		{"an empty list of files is a list", "-- 10.hcl --\nallow_from = []\n-- kv:hostagent/all.hcl --\nallow_from = [\"10.0.0.0/8\"]\n",
			func(*Config) {}},
		{"documents merge as files do", `
-- 10.hcl --
mode = "observe"
-- kv:hostagent/a.hcl --
close_delay = "1m"
allow_from  = []
-- kv:hostagent/b.hcl --
close_delay = "2m"
allow_from  = ["10.0.0.0/8"]
-- kv:hostagent/c/d.hcl --
allow_from  = ["10.0.0.0/8", "192.0.2.0/24"]
`, func(c *Config) {
			c.Mode = ModeObserve
			c.CloseDelay, c.AllowFrom = 2*time.Minute, []Source{source("10.0.0.0/8"), source("192.0.2.0/24")}
		}},
		{"exemptions of both count, those of the files first", `
-- 10.hcl --
exempt {
  finding = "exposed-listener"
  port    = 9100
  reason  = "of this host"
}
-- kv:hostagent/all.hcl --
exempt {
  finding = "squatted-port"
  port    = 21007
  reason  = "of all"
}
exempt {
  finding = "exposed-listener"
  port    = 9100
  reason  = "of all"
}
`, func(c *Config) {
			c.Exemptions = []Exempt{
				{Finding: "exposed-listener", Port: 9100, Reason: "of this host"},
				{Finding: "squatted-port", Port: 21007, Reason: "of all", FromKV: true},
				{Finding: "exposed-listener", Port: 9100, Reason: "of all", FromKV: true},
			}
		}},
		{"as many exemptions as the files may have", "-- 10.hcl --\n" + manyExempt(300, "a") + "-- 20.hcl --\n" + manyExempt(100, "b") +
			"-- kv:a.hcl --\n" + manyExempt(200, "c") + "-- kv:b.hcl --\n" + manyExempt(200, "d"), func(c *Config) {
			for _, s := range []struct {
				n      int
				prefix string
			}{{300, "a"}, {100, "b"}, {200, "c"}, {200, "d"}} {
				for i := range s.n {
					c.Exemptions = append(c.Exemptions, Exempt{Finding: "exposed-listener", Service: fmt.Sprint(s.prefix, i), Reason: "why", FromKV: s.prefix > "b"})
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := under(t, test.input)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			test.want(want)
			if diff := cmp.Diff(want, got, values); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBadLoadOver shows what is told of documents: all of them are refused then.
func TestBadLoadOver(t *testing.T) {
	const never, enforcing = " " + neverInKV + "\n", " " + enforcingInKV + "\n"
	for _, test := range []struct{ name, input, want string }{
		{"what documents never set", `
-- 10.hcl --
kv_may_enforce = true
-- kv:hostagent/all.hcl --
sidecar_range   = "21000-21255"
protected_ports = []
gateways        = ["web"]
kv_prefix       = "other/"
kv_may_enforce  = true
firewall {
  backend = "nftables"
}
consul {
  token   = "secret"
  unknown = 1
}
report {
  service_name = "web"
  detail       = "counts"
}
metrics {
}
`, `
kv:hostagent/all.hcl:1: key "sidecar_range"` + never + `kv:hostagent/all.hcl:2: key "protected_ports"` + never +
			`kv:hostagent/all.hcl:3: key "gateways"` + never + `kv:hostagent/all.hcl:4: key "kv_prefix"` + never +
			`kv:hostagent/all.hcl:5: key "kv_may_enforce"` + never + `kv:hostagent/all.hcl:6: block "firewall"` + never +
			`kv:hostagent/all.hcl:9: block "consul"` + never + `kv:hostagent/all.hcl:14: key "report.service_name"` + never +
			`kv:hostagent/all.hcl:17: block "metrics"` + never},
		{"what they set only where a host says so", `
-- 10.hcl --
kv_may_enforce = false
-- kv:hostagent/all.hcl --
mode    = "guard"
enforce = "report"
report {
  on                = "service"
  status            = "critical"
  warning_services  = []
  critical_services = ["web"]
}
`, `
kv:hostagent/all.hcl:1: key "mode"` + enforcing + `kv:hostagent/all.hcl:2: key "enforce"` + enforcing +
			`kv:hostagent/all.hcl:4: key "report.on"` + enforcing + `kv:hostagent/all.hcl:5: key "report.status"` + enforcing +
			`kv:hostagent/all.hcl:6: key "report.warning_services"` + enforcing + `kv:hostagent/all.hcl:7: key "report.critical_services"` + enforcing},
		{"a document gives no right to another", "-- kv:a.hcl --\nkv_may_enforce = true\n-- kv:b.hcl --\nmode = \"guard\"\n", `
kv:a.hcl:1: key "kv_may_enforce"` + never + `kv:b.hcl:1: key "mode"` + enforcing},
		{"mistakes are those of files", `
-- kv:hostagent/all.hcl --
close_dealy = "1m"
close_delay = "2h"
allow_from  = ["10.0.0.1/8"]
allow_from  = []
consul      = 1
exmpt {
}
exempt {
  finding = "exposed-listener"
}
report {
  spread = "11m"
}
-- kv:hostagent/syntax.hcl --
close_delay = 
`, `
kv:hostagent/all.hcl:1: unknown key "close_dealy"; did you mean "close_delay"?
kv:hostagent/all.hcl:2: close_delay: "2h0m0s" is out of bounds (1s to 1h)
kv:hostagent/all.hcl:3: allow_from: "10.0.0.1/8" has host bits set; write "10.0.0.0/8" for the network or "10.0.0.1" for the one address
kv:hostagent/all.hcl:4: key "allow_from" is set twice; first on line 3
kv:hostagent/all.hcl:5: "consul" is a block; write "consul {" without "="
kv:hostagent/all.hcl:6: unknown block "exmpt"; did you mean "exempt"?
kv:hostagent/all.hcl:8: exempt: needs one of the keys "service", "port" and "executable"
kv:hostagent/all.hcl:12: report.spread: "11m0s" is out of bounds (0s to 10m)
kv:hostagent/syntax.hcl:1: Invalid expression: Expected the start of an expression, but found an invalid expression token.
`},
		{"what a file overrules is right all the same", "-- 10.hcl --\nclose_delay = \"1m\"\n-- kv:all.hcl --\nclose_delay = \"soon\"\n", `
kv:all.hcl:1: close_delay: "soon" is not a duration such as "500ms", "30s" or "2m"
`},
		{"contradictions with a file name the document", `
-- 10.hcl --
kv_may_enforce = true
report {
  critical_services = ["a", "b"]
}
-- kv:all.hcl --
enforce = "quarantine"
report {
  warning_services = ["b"]
}
`, `
kv:all.hcl:1: enforce: "quarantine" closes only ports that quarantine_ports lists, and it lists none
kv:all.hcl:3: report.warning_services: "b" stands in report.critical_services too; keep one of them (10.hcl:3)
`},
		{"the other way round", `
-- 10.hcl --
kv_may_enforce = true
report {
  warning_services = ["b"]
}
-- kv:all.hcl --
report {
  critical_services = ["b"]
}
`, `
kv:all.hcl:2: report.critical_services: "b" stands in report.warning_services too; keep one of them (10.hcl:3)
`},
		{"exemptions twice among documents", "-- kv:a.hcl --\n" + manyExempt(1, "a") + "-- kv:b.hcl --\n" + manyExempt(1, "a"), `
kv:b.hcl:1: exempt: another block exempts the same of "exposed-listener"; keep one of them (kv:a.hcl:1)
`},
		{"too many exemptions", "-- 10.hcl --\n" + manyExempt(100, "x") + "-- kv:a.hcl --\n" + manyExempt(300, "a") + "-- kv:b.hcl --\n" + manyExempt(101, "b"), `
kv:b.hcl:501: more than 400 blocks "exempt"
`},
		{"contradictions are told with other mistakes, but not those between files",
			"-- 10.hcl --\nenforce = \"quarantine\"\n-- kv:a.hcl --\nmod = 1\n" + manyExempt(1, "a") + manyExempt(1, "a"), `
kv:a.hcl:1: unknown key "mod"; did you mean "mode"?
kv:a.hcl:7: exempt: another block exempts the same of "exposed-listener"; keep one of them (line 2)
`},
		{"contradictions wait until all can be read", "-- kv:a.hcl --\n" + manyExempt(1, "a") + manyExempt(1, "a") + "-- kv:b.hcl --\nmode = \n", `
kv:b.hcl:1: Invalid expression: Expected the start of an expression, but found an invalid expression token.
`},
		{"mistakes of the files come first", "-- 10.hcl --\nmod = 1\n-- kv:a.hcl --\nmod = 1\n", `
10.hcl:1: unknown key "mod"; did you mean "mode"?
`},
		{"names that would garble a terminal", "-- kv:\x1b.hcl --\nmod = 1\n", `
"kv:\x1b.hcl":1: unknown key "mod"; did you mean "mode"?
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := under(t, test.input)
			if diff := cmp.Diff(strings.TrimSpace(test.want), fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s\ngot:\n%s", diff, err)
			}
		})
	}
}

// TestLoadOverBounds: whoever writes documents decides neither how long they are read nor how much is told of them.
func TestLoadOverBounds(t *testing.T) {
	many := func(n int) (all []Document) {
		for i := range n {
			all = append(all, Document{fmt.Sprint("kv:", i), []byte("close_delay = \"1m\"\n")})
		}
		return all
	}
	blank := func(name string, size int) Document { return Document{name, []byte(strings.Repeat("\n", size))} }
	wrong := Document{"kv:a", []byte(strings.Repeat("x = 1\n", 60_000))}
	for _, test := range []struct {
		name      string
		documents []Document
		want      string // the last line
	}{
		{"a hundred", many(100), "<nil>"},
		{"one more", many(101), "kv:100: more than 100 documents; put several into one"},
		{"as long as can be", []Document{blank("kv:a", 512<<10-1), blank("kv:b", 1)}, "<nil>"},
		{"one byte more", []Document{blank("kv:a", 512<<10-1), blank("kv:b", 2)}, "kv:b: the documents up to this one are larger than 512 KiB together"},
		{"problems", []Document{wrong}, "and 59950 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := LoadOver(test.documents, t.TempDir())
			lines := strings.Split(fmt.Sprint(err), "\n")
			if got := lines[len(lines)-1]; got != test.want || len(lines) > maxKVProblems+1 {
				t.Errorf("%d lines, the last %q, want %q", len(lines), got, test.want)
			}
		})
	}
}

// TestRightsInReference: the reference configuration names, in two sentences, what documents may set, and leaves out nothing.
func TestRightsInReference(t *testing.T) {
	source, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	text := oneLine(strings.ReplaceAll(string(source), "\n#", "\n"))
	list := func(right kvRight, before string) string {
		var top, inReport []string
		for _, s := range settings() {
			key, ofReport := strings.CutPrefix(s.name, "report.")
			switch {
			case s.kv != right:
			case ofReport:
				inReport = append(inReport, key)
			default:
				top = append(top, key)
			}
		}
		last := len(inReport) - 1
		return before + strings.Join(top, ", ") + ", and of the block report " + strings.Join(inReport[:last], ", ") + " and " + inReport[last] + "."
	}
	for _, want := range []string{
		list(kvFree, "What may stand there: exempt blocks, "), list(kvEnforcing, "Only with kv_may_enforce: "),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the reference does not say %q", want)
		}
	}
}

// TestReadDocuments: a folder stands for its documents, in order.
func TestReadDocuments(t *testing.T) {
	write(t, "-- b/2.hcl --\nx\n-- b/1.hcl --\ny\n-- b/no.txt --\n-- a.hcl --\nz\n")
	got, err := ReadDocuments("b", "a.hcl")
	want := []Document{{"b/1.hcl", []byte("y\n")}, {"b/2.hcl", []byte("x\n")}, {"a.hcl", []byte("z\n")}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if none, err := ReadDocuments(); none != nil || err != nil {
		t.Errorf("of no paths: %v, %v", none, err)
	}
	if _, err := ReadDocuments("nowhere"); fmt.Sprint(err) != "nowhere: cannot read configuration: no such file or directory" {
		t.Error(err)
	}
}

func TestKVPrefix(t *testing.T) {
	for prefix, want := range map[string]string{
		"": "<nil>", "hostagent/": "<nil>", "teams/mesh/hostagent/": "<nil>", "häuser/a b/": "<nil>", strings.Repeat("x", 199) + "/": "<nil>",
		"hostagent":                    `"hostagent" does not end in "/", and would stand for "hostagent-other/" too; write "hostagent/"`,
		"/hostagent/":                  `"/hostagent/" begins with "/", which keys in Consul's KV do not; write "hostagent/"`,
		"/":                            `"/" begins with "/", which keys in Consul's KV do not; write "hostagent/"`,
		"hostagent/all.hcl":            `"hostagent/all.hcl" is one document; write the folder that it lies in, as in "hostagent/"`,
		"a//b/":                        `"a//b/" holds an empty name, "." or ".."`,
		"a/../b/":                      `"a/../b/" holds an empty name, "." or ".."`,
		"./":                           `"./" holds an empty name, "." or ".."`,
		"a\"/":                         `"a\"/" holds a quote, a "\", "${" or "%{", which rules of ACL policies cannot hold`,
		`a\/`:                          `"a\\/" holds a quote, a "\", "${" or "%{", which rules of ACL policies cannot hold`,
		"${a}/":                        `"${a}/" holds a quote, a "\", "${" or "%{", which rules of ACL policies cannot hold`,
		"%{a}/":                        `"%{a}/" holds a quote, a "\", "${" or "%{", which rules of ACL policies cannot hold`,
		"a\n/":                         `"a\n/" holds control characters`,
		"\xff/":                        `"\xff/" holds control characters`,
		strings.Repeat("x", 200) + "/": `"` + strings.Repeat("x", 80) + `"... has 201 bytes; at most 200`,
	} {
		c := Default()
		c.KVPrefix = prefix
		if want != "<nil>" {
			want = "kv_prefix: " + want
		}
		if diff := cmp.Diff(want, fmt.Sprint(c.Validate())); diff != "" {
			t.Errorf("%.40q (-want +got)\n%s", prefix, diff)
		}
	}
}

func TestSpread(t *testing.T) {
	seconds := func(n time.Duration) *time.Duration { n *= time.Second; return &n }
	for value, want := range map[string]*time.Duration{
		`"auto"`: nil, `"0s"`: seconds(0), `"0"`: seconds(0), `"90s"`: seconds(90), `"10m"`: seconds(600),
	} {
		if diff := cmp.Diff(want, mustLoad(t, "report {\n spread = "+value+"\n}\n").Report.Spread); diff != "" {
			t.Errorf("%s (-want +got)\n%s", value, diff)
		}
	}
	for value, want := range map[string]string{
		`"atuo"`: `unknown value "atuo"; did you mean "auto"?`, `5`: `"5" has no unit; write "5s" for seconds`,
		`"-1s"`: `"-1s" is out of bounds (0s to 10m)`, `"601s"`: `"10m1s" is out of bounds (0s to 10m)`,
		`""`: `"" is not a duration such as "500ms", "30s" or "2m"; or write "auto"`, `"5"`: `"5" has no unit; write "5s" for seconds; or write "auto"`, `auto`: `"auto" refers to a variable, and there are none; write "auto" in quotes`,
		`true`: `"true" is a bool; write "true" in quotes`,
	} {
		write(t, "report {\n spread = "+value+"\n}\n")
		_, err := loadAndValidate()
		if diff := cmp.Diff("10.hcl:2: report.spread: "+want, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", value, diff)
		}
	}
}

// TestFlagOverDocument: what stands over files stands over documents, and takes the blame.
func TestFlagOverDocument(t *testing.T) {
	c, err := under(t, "-- 10.hcl --\nkv_may_enforce = true\n-- kv:all.hcl --\nmode = \"observe\"\nallow_from = [\"10.0.0.0/8\"]\nclose_delay = \"1m\"\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"mode": "guard", "allow-from": "192.0.2.7", "close-delay": "2m"} {
		if err := c.SetFlag(name, value); err != nil {
			t.Fatal(err)
		}
	}
	want := Default()
	want.KVMayEnforce, want.Mode, want.CloseDelay = true, ModeGuard, 2*time.Minute
	want.AllowFrom = []Source{{Network: netip.MustParsePrefix("192.0.2.7/32")}}
	if diff := cmp.Diff(want, c, values); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := c.SetFlag("enforce", "quarantine"); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.Validate()), `flag --enforce: "quarantine" closes only ports that quarantine_ports lists, and it lists none`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzLoadOver puts documents under files and checks what must hold whatever they say: what documents may not set is as
// without them, what a file says stands, and what is told of mistakes is fit for a terminal.
func FuzzLoadOver(f *testing.F) {
	if source, err := os.ReadFile(reference); err == nil {
		f.Add(source, false, "")
		f.Add([]byte(strings.ReplaceAll(string(source), "# ", "")), true, "")
	}
	for _, seed := range []string{
		"close_delay = \"1m\"\nallow_from = [\"cluster\"]\n", "mode = \"guard\"\nenforce = \"quarantine\"\n", "protected_ports = []\n",
		"kv_may_enforce = true\nmode = \"guard\"\n", "consul {\n token = \"x\"\n}\n", "firewall {\n accept = \"none\"\n}\nmetrics {\n}\n",
		"report {\n on = \"service\"\n service_name = \"x\"\n critical_services = [\"a\"]\n spread = \"1s\"\n}\n", manyExempt(3, "x"),
	} {
		for _, mayEnforce := range []bool{false, true} {
			f.Add([]byte(seed), mayEnforce, "mode = \"observe\"\nclose_delay = \"30s\"\nallow_from = []\n")
			f.Add([]byte(seed), mayEnforce, "")
		}
	}
	f.Fuzz(func(t *testing.T, source []byte, mayEnforce bool, file string) {
		load := func(documents ...Document) (*Config, Errors) {
			c := Default()
			if problems, _ := c.merge("10.hcl", []byte(file)); len(problems) > 0 {
				t.Skip("no good file")
			}
			c.KVMayEnforce = mayEnforce
			return c, c.putUnder(documents)
		}
		plain, _ := load()
		// Once more as a second document: the first must give it no right.
		got, problems := load(Document{"kv:a.hcl", source}, Document{"kv:b.hcl", source})
		for _, problem := range problems {
			if strings.ContainsFunc(problem.Error(), unicode.IsControl) {
				t.Errorf("control characters in %q", problem)
			}
		}
		// What is not a never-key is put back, and what is left must not have moved.
		own := slices.DeleteFunc(slices.Clone(got.Exemptions), func(x Exempt) bool { return x.FromKV })
		if !slices.Equal(own, plain.Exemptions) || len(own) > 0 && got.Exemptions[0].FromKV {
			t.Errorf("exemptions of the file: %v, now %v", plain.Exemptions, got.Exemptions)
		}
		got.Exemptions = plain.Exemptions
		_, fileSets := plain.origins["close_delay"]
		if !fileSets {
			got.CloseDelay = plain.CloseDelay
		}
		if _, fileSets = plain.origins["allow_from"]; !fileSets {
			got.AllowFrom = plain.AllowFrom
		}
		putBack := func(c *Config) {
			r := &c.Report
			r.Enabled, r.Detail, r.Spread = plain.Report.Enabled, plain.Report.Detail, plain.Report.Spread
			if mayEnforce {
				r.On, r.Status, r.WarningServices, r.CriticalServices = plain.Report.On, plain.Report.Status, plain.Report.WarningServices, plain.Report.CriticalServices
				c.Enforce = plain.Enforce
				if _, fileSets := plain.origins["mode"]; !fileSets {
					c.Mode = plain.Mode
				}
			}
		}
		putBack(got)
		if diff := cmp.Diff(plain, got, values); diff != "" {
			t.Errorf("documents moved (-without +with)\n%s", diff)
		}
	})
}

// TestHostileDocuments gives as much as documents may have of what the parser's cost grows with: a host is not kept busy.
func TestHostileDocuments(t *testing.T) {
	fill := func(before, repeated, after string) []byte {
		return []byte(before + strings.Repeat(repeated, (maxDocumentsSize-len(before+after))/len(repeated)) + after)
	}
	for name, source := range map[string][]byte{
		"attributes": fill("", "a=1\n", ""), "names": fill("allow_from = [", "\"cluster\",", "]\n"), "blocks": fill("", "a{\n", ""),
		"exemptions": fill("", "exempt {\n}\n", ""), "words": fill("", "a\n", ""), "dollars": fill("mode = \"", "$", ""),
	} {
		start := time.Now()
		_, err := LoadOver([]Document{{"kv:a", source}}, t.TempDir())
		took := time.Since(start)
		t.Logf("%s: %v, %.60q", name, took.Round(time.Millisecond), fmt.Sprint(err))
		if took > 30*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}
