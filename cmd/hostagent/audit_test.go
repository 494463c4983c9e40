// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/test/schema"
)

// hostileText is what a service may be called to harm who reads a ticket of it.
const hostileText = "service `x`` @root ![i](http://evil) [~admin] | <script>alert(1)</script> #1 \x1b[31m\u202e\n## owned"

// audits are reports as Evaluate makes them: one of every status with evil names, one where all is well, one of a few items.
func audits() map[string]*audited {
	all := audit.Evaluate(audit.Input{})
	rows := map[catalog.ID]audit.Row{
		catalog.ACLEnabled:     {Status: audit.Pass, Found: []string{"the agent runs with acl.enabled = true"}},
		catalog.ACLDefaultDeny: {Status: audit.Fail, Found: []string{`the agent runs with acl.default_policy = "allow"`, `/etc/consul.d/acl.hcl:3: acl.default_policy = "allow"`}, Remedy: `set acl { default_policy = "deny" } and restart the agent`},
		catalog.ACLAnonymous:   {Status: audit.Unknown, Found: []string{"the token may not read it: " + hostileText}, Needs: `rule operator = "read" in the policy of hostagent's token`},
		catalog.ACLTokenScope: {
			Status: audit.Fail, Remedy: "replace the rule of " + hostileName,
			Found: []string{hostileName + " holds service_prefix \"\"", hostileText, strings.Repeat("long-", 40), "`"},
		},
		catalog.GossipEncryption:   {Status: audit.Fail, Found: []string{"the agent tells that gossip is not encrypted"}, Remedy: "set encrypt"},
		catalog.GossipVerify:       {Status: audit.NotApplicable, Found: []string{"gossip is not encrypted: see gossip-encryption"}},
		catalog.CAProvider:         {Status: audit.Warn, Found: []string{`the provider is "consul"`}, Remedy: "move to an external provider"},
		catalog.LoopbackTenancy:    {Status: audit.Info, Found: []string{hostileName + " and web share this host's loopback"}},
		catalog.AgentUser:          {Status: audit.Pass, Found: []string{"the agent runs as " + hostileName, "no process of it is root's"}},
		catalog.TLSServerHostname:  {Status: audit.Pass, Found: []string{strings.Repeat("long-", 40)}},
		catalog.IntentionWildcards: {Status: audit.Pass},
	}
	many := audit.Report{Notes: []string{"the firewall was not looked at: run as root", hostileText}}
	fine := audit.Report{}
	for _, row := range all.Rows {
		if made, ok := rows[row.ID]; ok {
			made.ID = row.ID
			row = made
		}
		many.Rows = append(many.Rows, row)
		fine.Rows = append(fine.Rows, audit.Row{ID: row.ID, Status: audit.Pass, Found: []string{"seen"}})
	}
	few := many.Keep(func(item catalog.Item) bool { return item.Step == catalog.StepCA && item.ID != catalog.CARotation })
	few.Notes = nil
	return map[string]*audited{
		"many": {report: many, subject: audit.Subject{Node: "host\x1b[31m`", Datacenter: hostileName, ConsulVersion: "1.21.0"}},
		"fine": {report: fine, subject: audit.Subject{Node: "host-1", Datacenter: "dc1", ConsulVersion: "1.21.0"}},
		"few":  {report: few},
	}
}

func TestAuditTable(t *testing.T) {
	for name, seen := range audits() {
		widths(t, "audit-"+name, func(s *screen) string { return s.audit(seen) }, 0, 40, 80, 120)
	}
	golden(t, "testdata/table/audit-colours-80.txt", strings.ReplaceAll((&screen{width: 80, colour: true}).audit(audits()["many"]), "\x1b", "ESC"))
}

func TestAuditDocument(t *testing.T) {
	for name, seen := range audits() {
		text, err := jsonText(seen.report.Document(seen.subject, "1"))
		if err == nil {
			err = schema.Validate("audit", text)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if strings.IndexFunc(text, unshown) >= 0 {
			t.Errorf("%s: what is written could drive a terminal", name)
		}
		var d audit.Document
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		if n := d.Score; len(d.Items) != n.Asked+n.NotApplicable || n.Asked != n.Pass+n.Info+n.Unknown+n.Warn+n.Fail {
			t.Errorf("%s: the score does not add up: %+v", name, n)
		}
	}
	empty := audit.Report{}
	text, err := jsonText(empty.Document(audit.Subject{}, "1"))
	if err == nil {
		err = schema.Validate("audit", text)
	}
	if err != nil || strings.Contains(text, "null") {
		t.Errorf("an empty report: %v\n%s", err, text)
	}
}

func TestAuditSchemaCanFail(t *testing.T) {
	seen := audits()["many"]
	good, err := json.Marshal(seen.report.Document(seen.subject, "1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"schema_version":1`, `"schema_version":2`}, {`"status":"pass"`, `"status":"passed"`}, {`"step":"acls"`, `"step":"acl"`},
		{`"found":[`, `"evidence":[`}, {`"notes":`, `"nodes":`}, {`"asked":`, `"all":`}, {`"id":"acl-enabled"`, `"id":"ACL"`},
		{`"node":`, `"extra":1,"node":`},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Errorf("the document holds no %s", change[0])
		} else if schema.Validate("audit", bad) == nil {
			t.Errorf("with %s it still fits", change[1])
		}
	}
}

func TestAuditMarkdown(t *testing.T) {
	for name, seen := range audits() {
		got := auditMarkdown(seen.report.Document(seen.subject, "1"))
		golden(t, "testdata/table/audit-"+name+".md", got)
		if strings.IndexFunc(got, unshown) >= 0 {
			t.Errorf("%s: what is written could drive a terminal", name)
		}
		// Outside of code nothing is left that somebody else wrote, or that is HTML.
		prose := proseOf(t, got)
		prose = strings.ReplaceAll(prose, "<"+securityModel+">", "")
		if at := regexp.MustCompile(`@|!\[|<|evil|\[~|owned|pwned|x1b|u001b`).FindString(prose); at != "" {
			t.Errorf("%s: %q stands outside of code:\n%s", name, at, prose)
		}
	}
}

// proseOf takes the code spans of a document away: from one backtick to the next, on one line.
func proseOf(t *testing.T, document string) string {
	t.Helper()
	var prose strings.Builder
	for line := range strings.Lines(document) {
		parts := strings.Split(line, "`")
		if len(parts)%2 == 0 || strings.Contains(line, "``") {
			t.Fatalf("code does not end, or is fenced by more than one backtick: %q", line)
		}
		for i := 0; i < len(parts); i += 2 {
			prose.WriteString(parts[i])
		}
	}
	return prose.String()
}

func TestMarkdownCode(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "  ": "", "a": "`a`", "a|b": "`a|b`", "a`b": "`a'b`", "`": "`'`", "``a`": "`''a'`", "a\nb": "`a\\u000ab`", `\`: "`\\`",
	} {
		if got := markdownCode(in); got != want {
			t.Errorf("%q is written %q, want %q", in, got, want)
		}
	}
	if got, want := markdownText("a_b * [c] #1 `d`"), "a\\_b \\* \\[c\\] \\#1 \\`d\\`"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestScoreText(t *testing.T) {
	for want, score := range map[string]audit.DocumentScore{
		"23 of 38 pass, 2 fail, 1 warn, 12 unknown; 6 do not apply": {Asked: 38, Pass: 23, Fail: 2, Warn: 1, Unknown: 12, NotApplicable: 6},
		"3 of 4 pass, 1 to be known; 1 does not apply":              {Asked: 4, Pass: 3, Info: 1, NotApplicable: 1},
		"44 of 44 pass": {Asked: 44, Pass: 44},
	} {
		if got := score.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAuditVerdict(t *testing.T) {
	for _, test := range []struct {
		worst  audit.Status
		failOn string
		want   int
	}{
		{audit.Pass, "unknown", 0}, {audit.NotApplicable, "unknown", 0}, {audit.Info, "unknown", 0}, {audit.Unknown, "unknown", 1},
		{audit.Unknown, "warn", 0}, {audit.Warn, "warn", 1}, {audit.Fail, "warn", 1}, {audit.Warn, "fail", 0}, {audit.Fail, "fail", 1},
		{audit.Fail, "never", 0}, {audit.Warn, "unknown", 1},
	} {
		o := auditOptions{failOn: test.failOn}
		report := audit.Report{Rows: []audit.Row{{Status: audit.Pass}, {Status: test.worst}}}
		got := 0
		if exit, ok := errors.AsType[*exitError](o.verdict(&report)); ok {
			got = exit.status
		}
		if got != test.want {
			t.Errorf("%s with --fail-on %s: status %d, want %d", test.worst, test.failOn, got, test.want)
		}
	}
}

func TestAuditWanted(t *testing.T) {
	for _, test := range []struct {
		name       string
		only, skip []string
		want       []catalog.ID
		refused    string
	}{
		{name: "a step less an item", only: []string{"acls"}, skip: []string{"acl-default-deny", "acl-anonymous", "acl-instance-tokens", "acl-token-scope"},
			want: []catalog.ID{catalog.ACLEnabled, catalog.ACLManagementToken, catalog.ACLPersistence}},
		{name: "items of several steps, in the catalog's order", only: []string{"agent-user", "ca-leaf-ttl"}, want: []catalog.ID{catalog.CALeafTTL, catalog.AgentUser}},
		{name: "all but steps", skip: []string{"acls", "transport", "firewall", "instances", "files"},
			want: []catalog.ID{catalog.CAEnabled, catalog.CAProvider, catalog.CARoot, catalog.CAIntermediate, catalog.CARotation, catalog.CALeafTTL}},
		{name: "nothing", only: []string{"ca"}, skip: []string{"ca"}, refused: "leave no item"},
		{name: "slip", only: []string{"acl-enabeld"}, refused: `flag --only: unknown item "acl-enabeld"; did you mean "acl-enabled"?`},
		{name: "slip of a step", skip: []string{"instnaces"}, refused: `did you mean "instances"?`},
		{name: "finding", only: []string{"exposed-listener"}, refused: "exposed-listener is a finding of hostagent scan"},
		{name: "nonsense", skip: []string{"xyzzy"}, refused: `whole steps are ["acls" "transport" "ca" "firewall" "instances" "files"]`},
		{name: "empty word", only: []string{""}, refused: `unknown item ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := auditOptions{only: test.only, skip: test.skip}
			wanted, err := o.wanted()
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Fatalf("error %v, want %q", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			seen := &audited{report: audit.Evaluate(audit.Input{})}
			all := len(seen.report.Rows)
			seen.keep(wanted)
			var got []catalog.ID
			for _, row := range seen.report.Rows {
				got = append(got, row.ID)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if want := plural(all-len(got), "item") + " left out by --only and --skip"; !slices.Contains(seen.report.Notes, want) {
				t.Errorf("the notes %q lack %q", seen.report.Notes, want)
			}
		})
	}
}

func TestCompleteWords(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.Flags().StringSlice("only", nil, "")
	completeWords(cmd, "only", []string{"acls", "ca"})
	complete, _ := cmd.GetFlagCompletionFunc("only")
	for typed, want := range map[string][]string{"": {"acls", "ca"}, "a": {"acls", "ca"}, "acls,": {"acls,ca"}, "acls,c": {"acls,ca"}} {
		if got, directive := complete(cmd, nil, typed); !slices.Equal(got, want) || directive != cobra.ShellCompDirectiveNoFileComp {
			t.Errorf("%q completes to %q", typed, got)
		}
	}
}

// TestAgentFinder: only a process that may be the agent is taken for it.
func TestAgentFinder(t *testing.T) {
	listener := func(address string, uid uint32) sockets.Listener {
		return sockets.Listener{Protocol: sockets.TCP, Addr: netip.MustParseAddrPort(address), UID: uid, Cookie: 1}
	}
	real, err := sockets.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, address string
		listeners     []sockets.Listener
		remote        bool
		want          int // listeners that are asked for their owner
	}{
		{name: "loopback", address: "http://127.0.0.1:8500", listeners: []sockets.Listener{listener("127.0.0.1:8500", 0)}, want: 1},
		{name: "by name", address: "https://localhost:8500", listeners: []sockets.Listener{listener("0.0.0.0:8500", 0)}, want: 1},
		{name: "no port", address: "http://127.0.0.1", listeners: []sockets.Listener{listener("127.0.0.1:80", 0)}, want: 1},
		{name: "consul's user", address: "http://127.0.0.1:8500", listeners: []sockets.Listener{listener("127.0.0.1:8500", 4711)}, want: 1},
		{name: "somebody else's", address: "http://127.0.0.1:8500", listeners: []sockets.Listener{listener("127.0.0.1:8500", 4712)}},
		{name: "another port", address: "http://127.0.0.1:8500", listeners: []sockets.Listener{listener("127.0.0.1:8501", 0)}},
		{name: "another host", address: "http://192.0.2.1:8500", listeners: []sockets.Listener{listener("0.0.0.0:8500", 0)}, remote: true},
		{name: "no address", address: "http://[:8500", listeners: []sockets.Listener{listener("0.0.0.0:8500", 0)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := agentFinder{
				isLocal: func(_, _ netip.Addr) (bool, error) { return !test.remote, nil },
				users:   func() []uint32 { return []uint32{4711} },
			}
			if got := len(f.candidates(t.Context(), test.address, slices.Concat(test.listeners, real))); got != test.want {
				t.Errorf("%d listeners may be the agent's, want %d", got, test.want)
			}
		})
	}
}

func TestAgentOf(t *testing.T) {
	agent := sockets.Process{PID: 300, Name: "consul"}
	for _, test := range []struct {
		name  string
		owner sockets.Owner
		want  int
	}{
		{"nobody is seen", sockets.Owner{}, 0},
		{"an agent", sockets.Owner{Processes: []sockets.Process{agent}}, 300},
		{"systemd holds its socket too", sockets.Owner{Processes: []sockets.Process{{PID: 1}, agent}}, 300},
		{"systemd alone", sockets.Owner{Processes: []sockets.Process{{PID: 1}}}, 0},
		{"the proxy of a container", sockets.Owner{Processes: []sockets.Process{{PID: 200, Forwards: "172.17.0.2:8500"}}}, 0},
		{"in a container", sockets.Owner{Container: "0123456789ab", Processes: []sockets.Process{agent}}, 0},
	} {
		if got := agentOf(&test.owner); got != test.want {
			t.Errorf("%s: process %d, want %d", test.name, got, test.want)
		}
	}
}

// TestFindsItself: this very process is found at an address, and on a unix socket.
func TestFindsItself(t *testing.T) {
	f := newAgentFinder(new(sharedOwners), nil)
	path := filepath.Join(t.TempDir(), "http.sock")
	tcp := listenAt(t, "tcp", "127.0.0.1:0")
	listenAt(t, "unix", path)
	for _, address := range []string{"http://" + tcp, "unix://" + path} {
		if pid, _ := f.find(t.Context(), address); pid != os.Getpid() {
			t.Errorf("%s: process %d, want %d", address, pid, os.Getpid())
		}
	}
	if pid, unit := f.find(t.Context(), "unix://"+path+"x"); pid != 0 || unit != "" {
		t.Errorf("process %d of unit %q on a socket that is not there", pid, unit)
	}
}

// TestAuditNamesItsNode: an agent that refuses to tell of itself does so with its name.
func TestAuditNamesItsNode(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `Permission denied: anonymous token lacks permission 'agent:read' on "node-7". The anonymous token is used implicitly when a request does not specify a token.`, http.StatusForbidden)
	}))
	defer server.Close()
	c := loaded(t)
	c.Consul.Address = server.URL
	seen, err := lookForAudit(t.Context(), c, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if seen.subject.Node != "node-7" {
		t.Errorf("it is the audit of %+v", seen.subject)
	}
}

func TestHourlyAudit(t *testing.T) {
	c := loaded(t)
	closed := false
	p := hostagent.Parts{Close: func() { closed = true }}
	look, err := new(daemon).hourlyAudit(c, &p)
	if err != nil {
		t.Fatal(err)
	}
	report := look(t.Context(), audit.Unseen[audit.Host]("a test", ""))
	if len(report.Rows) != len(catalog.Items()) || report.Worst() == audit.Pass {
		t.Errorf("%d rows, the worst %s", len(report.Rows), report.Worst())
	}
	p.Close()
	if !closed {
		t.Error("the other connections stay open")
	}
}

// loaded is the configuration of a host without any, whose agent does not answer.
func loaded(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Consul.Address = "http://127.0.0.1:1"
	return c
}

func listenAt(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
