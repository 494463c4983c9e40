// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

func day(text string) time.Time {
	d, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return d
}

// exemption reads "exposed-listener web 8080 /usr/bin/x until=2027-01-31", all but the first of it optional.
func exemption(text string) Exemption {
	fields := strings.Fields(text)
	x := Exemption{Finding: catalog.ID(fields[0]), Reason: "because"}
	for _, f := range fields[1:] {
		switch until, dated := strings.CutPrefix(f, "until="); {
		case dated:
			x.Expires, x.Reason = day(until), "until then"
		case f[0] == '/':
			x.Executable = strings.ReplaceAll(f, "_", " ")
		case f[0] >= '0' && f[0] <= '9':
			fmt.Sscan(f, &x.Port)
		default:
			x.Service = f
		}
	}
	return x
}

// exemptDump writes each finding with what the operator says of it.
func exemptDump(r Result) string {
	var b strings.Builder
	for _, f := range r.Findings {
		_, ended, _ := strings.Cut(f.Message, "; its")
		fmt.Fprintf(&b, "%s %s %s %d [%s]%s\n", f.Severity, f.ID, f.State, f.Port, f.Exemption, strings.TrimRight(" "+ended, " "))
	}
	return b.String()
}

func exes(paths ...string) sockets.Owner {
	var o sockets.Owner
	for i, path := range paths {
		o.Processes = append(o.Processes, sockets.Process{PID: int32(100 + i), Exe: path})
	}
	return o
}

// TestExemptions: web is exposed on 8080, and somebody sits on 21007.
func TestExemptions(t *testing.T) {
	const (
		squatter   = "warning squatted-port open 21007 []\n"
		both       = "warning exposed-listener open 8080 []\n" + squatter
		webExempt  = squatter + "info exposed-listener exempt 8080 [because]\n"
		squatMeant = "warning exposed-listener open 8080 []\ninfo squatted-port exempt 21007 [because]\n"
	)
	for _, test := range []struct {
		name       string
		exemptions string // a line each
		want       string
		change     func(*Input)
	}{
		{"none", "", both, nil},
		{"a service", "exposed-listener web", webExempt, nil},
		{"another service", "exposed-listener api\nexposed-listener web-sidecar-proxy", both, nil},
		{"another finding", "exposed-sibling web", both, nil},
		{"a port", "exposed-listener 8080\nsquatted-port 21007",
			"info exposed-listener exempt 8080 [because]\ninfo squatted-port exempt 21007 [because]\n", nil},
		{"another port", "exposed-listener 21007", both, nil},
		{"all has to fit", "exposed-listener web 8081\nexposed-listener api 8080\nexposed-listener web 8080 /usr/bin/other", both, nil},
		{"all fits", "exposed-listener web 8080 /usr/bin/web", webExempt, nil},
		{"a service that is not the finding's", "squatted-port web 21007", both, nil},
		{"an executable", "squatted-port /usr/bin/nc", squatMeant, nil},
		{"an executable with other letters", "squatted-port /usr/bin/NC\nsquatted-port /bin/nc", both, nil},
		{"an executable that was replaced", "squatted-port /usr/bin/nc", squatMeant,
			func(in *Input) {
				holders(in, sockets.Owner{}, sockets.Owner{}, exes("/usr/bin/nc (deleted)", "/usr/bin/nc"))
			}},
		{"several processes, one of them another program", "squatted-port /usr/bin/nc", both,
			func(in *Input) { holders(in, sockets.Owner{}, sockets.Owner{}, exes("/usr/bin/nc", "/usr/bin/socat")) }},
		{"several processes, one of them out of sight", "squatted-port /usr/bin/nc", both,
			func(in *Input) { holders(in, sockets.Owner{}, sockets.Owner{}, exes("/usr/bin/nc", "")) }},
		{"no process in sight", "squatted-port /usr/bin/nc", both,
			func(in *Input) { holders(in, sockets.Owner{}, sockets.Owner{}, sockets.Owner{User: "root"}) }},
		{"an owner out of sight", "squatted-port /usr/bin/nc", both, func(in *Input) { in.Owners = nil }},
		{"an executable where there is no listener", "sidecar-not-listening web 21000 /usr/bin/envoy",
			"warning exposed-listener open 8080 []\nwarning sidecar-not-listening open 21000 []\n" + squatter,
			func(in *Input) { in.Listeners = slices.Delete(in.Listeners, 1, 2) }},
		{"no listener, but a port", "sidecar-not-listening web 21000",
			both + "info sidecar-not-listening exempt 21000 [because]\n",
			func(in *Input) { in.Listeners = slices.Delete(in.Listeners, 1, 2) }},
		{"mitigated", "squatted-port 21007", squatMeant, func(in *Input) { in.Enforced = firewall.Ports(21007) }},
		{"meant to be so, behind what is merely mitigated", "exposed-listener web",
			squatter + "info exposed-listener mitigated 8081 []\ninfo exposed-listener exempt 8080 [because]\n",
			func(in *Input) {
				in.Enforced = firewall.Ports(8081)
				in.Registrations = append(in.Registrations, app("zoo", 8081), sidecar("zoo", 21001))
				in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:8081"), listener("tcp [::]:21001"))
			}},
		{"the day before", "exposed-listener web until=2027-02-01", squatter + "info exposed-listener exempt 8080 [until then (until 2027-02-01)]\n", nil},
		{"the last day", "exposed-listener web until=2027-01-31", squatter + "info exposed-listener exempt 8080 [until then (until 2027-01-31)]\n", nil},
		{"the day after", "exposed-listener web until=2027-01-30",
			"warning exposed-listener open 8080 [until then (until 2027-01-30)]  exemption ended on 2027-01-30 (until then)\n" + squatter, nil},
		{"one that has ended does not hide one that holds", "exposed-listener web until=2027-01-30\nexposed-listener 8080", webExempt, nil},
		{"of several the one that ended last is named",
			"exposed-listener web until=2026-01-30\nexposed-listener 8080 until=2027-01-30\nexposed-listener web 8080 until=2027-01-29",
			"warning exposed-listener open 8080 [until then (until 2027-01-30)]  exemption ended on 2027-01-30 (until then)\n" + squatter, nil},
		{"one that ended for another program says nothing", "squatted-port /usr/bin/socat until=2027-01-30", both, nil},
		{"one that ended for a program out of sight says nothing", "squatted-port /usr/bin/nc until=2027-01-30", both, func(in *Input) { in.Owners = nil }},
		{"an unknown day ends nothing", "exposed-listener web until=2001-01-01", squatter + "info exposed-listener exempt 8080 [until then (until 2001-01-01)]\n",
			func(in *Input) { in.Today = time.Time{} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			in.Today = day("2027-01-31")
			in.Listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000", "tcp 0.0.0.0:21007")
			holders(&in, exes("/usr/bin/web"), exes("/usr/bin/envoy"), exes("/usr/bin/nc"))
			for line := range strings.Lines(test.exemptions) {
				in.Policy.Exemptions = append(in.Policy.Exemptions, exemption(line))
			}
			if test.change != nil {
				test.change(&in)
			}
			if diff := cmp.Diff(test.want, exemptDump(Evaluate(in))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestExemptSentences: the sentence is what it was; an exemption that is over is told behind it.
func TestExemptSentences(t *testing.T) {
	in := base()
	in.Listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
	plain := Evaluate(in).Findings[0]
	x := exemption("exposed-listener web until=2027-01-31")
	x.Reason = "since\x1b[2J " + strings.Repeat("ü", 300)
	in.Policy.Exemptions = []Exemption{x}
	exempt := Evaluate(in).Findings[0]
	want(t, "the message", plain.Message, exempt.Message)
	want(t, "the remedy", plain.Remedy, exempt.Remedy)
	shown := `since\u001b[2J ` + strings.Repeat("ü", 190) + "…"
	want(t, "the reason", shown+" (until 2027-01-31)", exempt.Exemption.String())
	in.Today = day("2027-02-01")
	ended := Evaluate(in).Findings[0]
	want(t, "the message in the end", plain.Message+"; its exemption ended on 2027-01-31 ("+shown+")", ended.Message)
	if ended.Severity != plain.Severity || ended.State != Open {
		t.Errorf("in the end the finding is %s %s", ended.Severity, ended.State)
	}
	want(t, "nobody's word", "", (*Exemption)(nil).String())
}

// TestExemptQuarantine: what the operator means to be so is not closed, and nothing is said about that.
func TestExemptQuarantine(t *testing.T) {
	const (
		another = "another listener on it is exempt"
		exempt  = "exempt this one too, or take the exemption of the other out of the configuration"
		doubt   = "an exemption may be meant for it, and who listens there is not seen"
		asRoot  = "run hostagent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
	)
	before := []Quarantined{{Port: 8080, Services: []string{"web"}, Held: true}}
	for _, test := range []struct {
		name, exemption, want string
		change                func(*Input)
	}{
		{"for another service", "exposed-listener api", closed8080, nil},
		{"for web", "exposed-listener web", closedNone, nil},
		{"that was in quarantine", "exposed-listener web", closedNone, func(in *Input) { in.Quarantined = before }},
		{"that an earlier run closed", "exposed-listener web", closedNone, func(in *Input) {
			in.Quarantined = []Quarantined{{Port: 8080, Held: true}}
			in.Policy.Quarantine.Services = []string{"api"}
		}},
		{"that quarantine would refuse", "exposed-listener web", closedNone, func(in *Input) { in.Policy.Quarantine.Ports = firewall.PortSet{} }},
		{"that is over", "exposed-listener web until=2027-01-30", closed8080, nil},
		{"another finding", "squatted-port 8080", closed8080, nil},
		{"one of two services on the port", "exposed-listener web",
			strings.NewReplacer(`"web"`, `"api"`, "of web", "of api").Replace(refused8080(another, exempt)), func(in *Input) {
				in.Registrations = append(in.Registrations, app("api", 8080), sidecar("api", 21001))
				in.Policy.Quarantine.Services = []string{"web", "api"}
			}},
		{"one of two programs on the port", "exposed-listener /usr/bin/web", refused8080(another, exempt), func(in *Input) {
			in.Listeners[0] = listener("tcp 10.0.0.1:8080")
			in.Listeners = append(in.Listeners, listener("tcp 10.0.0.2:8080"))
			in.Registrations[1].Proxy.LocalServiceAddress, in.Registrations[0].Address = "10.0.0.1", "10.0.0.2"
			holders(in, exes("/usr/bin/web"), exes("/usr/bin/envoy"), exes("/usr/bin/consul"), exes("/usr/bin/other"))
		}},
		{"a service of another namespace, on a port of the same number", "exposed-listener api", closed8080, func(in *Input) {
			in.Registrations = append(in.Registrations, app("api", 8080), sidecar("api", 21001))
			published(in, "21001 172.26.64.2:21001")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21001")
			in.Policy.Quarantine.Services = []string{"web"}
		}},
		{"a program of another namespace that is not seen", "exposed-listener /usr/bin/api", closed8080, func(in *Input) {
			in.Registrations = append(in.Registrations, app("api", 8080), sidecar("api", 21001))
			published(in, "21001 172.26.64.2:21001")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21001")
			in.Policy.Quarantine.Services = []string{"web"}
		}},
		{"for a program that is not seen", "exposed-listener /usr/bin/web", refused8080(doubt, asRoot), func(in *Input) { in.Owners = nil }},
		{"for a program of which only the pid is seen", "exposed-listener /usr/bin/web", refused8080(doubt, asRoot), func(in *Input) {
			holders(in, exes("/usr/bin/web", ""))
		}},
		{"for a program that is not seen any more", "exposed-listener /usr/bin/web", closed8080, func(in *Input) {
			in.Owners, in.Quarantined = nil, before
		}},
		{"for a program that is seen", "exposed-listener /usr/bin/web", closedNone, nil},
		{"for another program", "exposed-listener /usr/bin/api", closed8080, nil},
		{"for a program that may have ended", "exposed-listener /usr/bin/web until=2027-01-30", closed8080, func(in *Input) { in.Owners = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := infected()
			in.Today = day("2027-01-31")
			in.Policy.Exemptions = []Exemption{exemption(test.exemption)}
			holders(&in, exes("/usr/bin/web"))
			if test.change != nil {
				test.change(&in)
			}
			if diff := cmp.Diff(test.want, quarantineDump(Evaluate(in))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBorrowedExemptions: whoever may write Consul's KV opens nothing that quarantine closes, and has his say on all else.
func TestBorrowedExemptions(t *testing.T) {
	const (
		closes  = "warning exposed-listener open 8080 [] lift\n"
		exempts = "info exposed-listener exempt 8080 [because]\n"
	)
	before := []Quarantined{{Port: 8080, Services: []string{"web"}, Held: true}}
	none := "guard 21000-21255\ncut none false\n"
	for _, test := range []struct {
		name, exemptions string // the operator's begin with "own "
		set, findings    string
		change           func(*Input)
	}{
		{"closes", "exposed-listener web", closed8080, closes, nil},
		{"stays closed", "exposed-listener web", closed8080, "info exposed-listener mitigated 8080 [] lift\n", func(in *Input) {
			in.Quarantined, in.Enforced = before, firewall.Ports(8080)
		}},
		{"stays closed without its registration", "exposed-listener 8080", "guard 8080, 21000-21255\ncut 8080 true\n8080 for web held=true\n", "",
			func(in *Input) { in.Quarantined, in.Registrations = before, nil }},
		{"for a program out of sight", "exposed-listener /usr/bin/web", closed8080, "warning exposed-listener open 8080 []\n",
			func(in *Input) { in.Owners = nil }},
		{"the operator's, too", "exposed-listener web\nown exposed-listener 8080", closedNone, exempts, nil},
		{"the operator's for another", "exposed-listener web\nown exposed-listener api", closed8080, closes, nil},
		{"one that has ended, too", "exposed-listener web\nown exposed-listener 8080 until=2027-01-30", closed8080, closes, nil},
		{"of what is only reported", "exposed-listener web", none, exempts, func(in *Input) { in.Policy.Quarantine = nil }},
		{"of a port that is not listed", "exposed-listener web", closedNone, exempts, func(in *Input) { in.Policy.Quarantine.Ports = firewall.PortSet{} }},
		{"of a service that is not listed", "exposed-listener web", closedNone, exempts, func(in *Input) { in.Policy.Quarantine.Services = []string{"api"} }},
		{"of a finding that is not acted on", "exposed-listener web", closedNone, exempts,
			func(in *Input) { in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedSibling} }},
		{"of one of two services on the port", "exposed-listener api", "guard 8080, 21000-21255\ncut 8080 true\n8080 for api and web held=false\n",
			"warning exposed-listener open 8080 [] lift\nwarning exposed-listener open 8080 []\n", func(in *Input) {
				in.Registrations = append(in.Registrations, app("api", 8080), sidecar("api", 21001))
				in.Policy.Quarantine.Services = []string{"web", "api"}
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := infected()
			in.Today = day("2027-01-31")
			for line := range strings.Lines(test.exemptions) {
				text, own := strings.CutPrefix(line, "own ")
				x := exemption(text)
				x.Borrowed = !own
				in.Policy.Exemptions = append(in.Policy.Exemptions, x)
			}
			holders(&in, exes("/usr/bin/web"))
			if test.change != nil {
				test.change(&in)
			}
			r := Evaluate(in)
			var findings strings.Builder
			for _, f := range r.Findings {
				told := ""
				if strings.Contains(f.Message, "does not lift quarantine") {
					told = " lift"
				}
				if f.ID == catalog.ExposedListener {
					fmt.Fprintf(&findings, "%s %s %s %d [%s]%s\n", f.Severity, f.ID, f.State, f.Port, f.Exemption, told)
				}
			}
			if diff := cmp.Diff(test.set+test.findings, quarantineDump(r)+findings.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestExemptionsAreUnmatched: notes of a scan tell of those that can be deleted, and of no others.
func TestExemptionsAreUnmatched(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
	parts := h.parts(ModeObserve)
	for _, text := range []string{
		"exposed-listener web", "exposed-listener 8080 until=2001-01-01", "exposed-listener /usr/bin/unseen", "exposed-listener api 8080",
		"squatted-port 21007 /usr/bin/x", "squatted-port a\x1bb",
	} {
		parts.Policy.Exemptions = append(parts.Policy.Exemptions, exemption(text))
	}
	notes := func() string {
		scan, err := Look(t.Context(), parts)
		if err != nil {
			t.Fatal(err)
		}
		scan.NoteUnmatched()
		return strings.Join(scan.Notes, "\n")
	}
	want(t, "the notes", `no finding meets the exemption of exposed-listener, service "api", port 8080; if it never does, delete it
no finding meets the exemption of squatted-port, port 21007, executable "/usr/bin/x"; if it never does, delete it
no finding meets the exemption of squatted-port, service "a\\u001bb"; if it never does, delete it`, notes())
	for range 9 {
		parts.Policy.Exemptions = append(parts.Policy.Exemptions, exemption("squatted-port nobody"))
	}
	if text := notes(); !strings.HasSuffix(text, "\nno finding meets 2 more exemptions") || strings.Count(text, "\n") != 10 {
		t.Errorf("many notes: %s", text)
	}
	h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
	want(t, "the notes where services are not known", "", notes())
	h.fails = nil
	if plan, err := LookAhead(t.Context(), parts); err != nil || len(plan.Notes) > 0 {
		t.Errorf("a plan notes %v, %v", plan.Notes, err)
	}
}

// TestExemptionEndsAtMidnight follows one from a running agent's start, over its last day, and through a reload that sets
// another.
func TestExemptionEndsAtMidnight(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	parts.Owners = fakeOwners{listener("tcp 0.0.0.0:8080").Cookie: program(7, "web", "/usr/bin/web", "")}
	old := exemption("squatted-port 21007 until=1999-12-31")
	ends := exemption("exposed-listener /usr/bin/web until=2000-01-01") // the bubble begins on 2000-01-01
	parts.Policy.Exemptions, parts.PollInterval = []Exemption{old, ends}, time.Minute
	h.runAgent(t, parts, func(agent *Agent, reload chan<- Parts) {
		state := func() string {
			f := agent.Status().Findings[0]
			exemption, err := json.Marshal(f.Exemption)
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprintf("%s %s %s %s", f.ID, f.Severity, f.State, exemption)
		}
		const exempt = `exposed-listener info exempt {"reason":"until then","because":"","expires":"2000-01-01","expired":false}`
		pass(5 * time.Minute)
		want(t, "on the last day", exempt, state())
		want(t, "the kernel", released, h.sets())
		c := checkOf(h.report, "service:web")
		want(t, "the check of web", `web: application reachable around the mesh (exempt)

info exposed-listener (exempt)  tcp 0.0.0.0:8080
  web listens on tcp 0.0.0.0:8080: the network reaches it without mTLS and
  without intentions
  who:    web, user 1000
  exempt: until then (until 2000-01-01)

sidecar web-sidecar-proxy: port 21000, open`, c.Output)
		if c.Status != consul.Passing {
			t.Errorf("the check of web is %s", c.Status)
		}
		pass(24*time.Hour - 5*time.Minute - 30*time.Second)
		want(t, "30 s before midnight", exempt, state())
		pass(time.Minute)
		want(t, "30 s after midnight", `exposed-listener warning open {"reason":"until then","because":"","expires":"2000-01-01","expired":true}`, state())
		want(t, "the kernel after midnight", inQuarantine, h.sets())
		if c := checkOf(h.report, "service:web"); c.Status != consul.Warning || !strings.Contains(c.Output, "exemption ended on 2000-01-01") {
			t.Errorf("the check of web after midnight is %+v", c)
		}
		pass(time.Minute)
		want(t, "in quarantine", `exposed-listener info mitigated {"reason":"until then","because":"","expires":"2000-01-01","expired":true}`, state())
		again := parts
		ends.Expires = day("2000-03-01")
		again.Policy.Exemptions = []Exemption{old, ends}
		reload <- again
		pass(time.Minute)
		want(t, "with a new day", strings.Replace(exempt, "01-01", "03-01", 1), state())
		want(t, "the kernel with a new day", released, h.sets())
	})
	var got []string
	for line := range strings.Lines(h.log.String()) {
		_, text, found := strings.Cut(line, "level=")
		if found && (strings.Contains(text, "exemption has ended") || strings.Contains(text, "finding ")) {
			level, text, _ := strings.Cut(text, " msg=")
			text, _, _ = strings.Cut(strings.NewReplacer(" severity=", " ", " state=", " ").Replace(text), " service=")
			got = append(got, level+" "+strings.TrimSpace(text))
		}
	}
	remedy := ` remedy="mend what it was for, or set another day; then delete it"`
	want(t, "the log", `WARN "exemption has ended" exemption="squatted-port, port 21007" ended=1999-12-31 reason="until then"`+remedy+`
INFO "finding opened" id=exposed-listener info exempt
WARN "exemption has ended" exemption="exposed-listener, executable \"/usr/bin/web\"" ended=2000-01-01 reason="until then"`+remedy+`
WARN "finding changed" id=exposed-listener warning open
INFO "finding changed" id=exposed-listener info mitigated
INFO "finding changed" id=exposed-listener info exempt
INFO "finding changed" id=exposed-listener info exempt`, strings.Join(got, "\n"))
	if !strings.Contains(h.log.String(), `exemption="until then (until 2000-03-01)"`) {
		t.Errorf("the log does not tell why:\n%s", h.log.String())
	}
}

// TestUnseenOwnerClosesNothing: an owner that is out of sight for a pass does not put what is exempt into quarantine.
func TestUnseenOwnerClosesNothing(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	parts.Policy.Exemptions = []Exemption{exemption("exposed-listener /usr/bin/web")}
	seen := fakeOwners{listener("tcp 0.0.0.0:8080").Cookie: program(7, "web", "/usr/bin/web", "")}
	moody := &moodyOwners{owners: seen}
	parts.Owners = moody
	h.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		want(t, "seen", released, h.sets())
		moody.owners = fakeOwners{}
		for range 10 {
			pass(time.Second)
			want(t, "out of sight", released, h.sets())
		}
		moody.owners = fakeOwners{listener("tcp 0.0.0.0:8080").Cookie: program(8, "nc", "/usr/bin/nc", "")}
		pass(7 * time.Second)
		want(t, "another program", inQuarantine, h.sets())
	})
}

// moodyOwners sees what the test lets it see.
type moodyOwners struct{ owners fakeOwners }

func (m *moodyOwners) Lookup(ctx context.Context, ls []sockets.Listener) (sockets.Result, error) {
	handOver()
	return m.owners.Lookup(ctx, ls)
}
