// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

var _ agent = (*consul.Client)(nil)

// fakeAgent answers everything, but for what errs names; may says what the token may do.
type fakeAgent struct {
	errs    map[string]error
	may     func(consul.Right) bool
	dataDir string
	gossip  *bool // encrypted
	client  *consul.Running
	asked   []string
}

func (f *fakeAgent) ask(what string) error {
	f.asked = append(f.asked, what)
	if err, ok := f.errs[what]; ok {
		return err
	}
	return f.errs["all"]
}

func (f *fakeAgent) Running(context.Context) (consul.Running, error) {
	if f.client != nil {
		return *f.client, f.ask("Running")
	}
	return consul.Running{Agent: consul.Agent{Node: "n1", DataDir: f.dataDir, Server: true}, GossipEncrypted: f.gossip}, f.ask("Running")
}

func (f *fakeAgent) Services(context.Context) (consul.Answer, error) {
	return consul.Answer{Registrations: []consul.Registration{{ID: "web", Name: "web"}}}, f.ask("Services")
}

func (f *fakeAgent) Servers(context.Context) ([]consul.Server, error) {
	return []consul.Server{{Name: "s1"}}, f.ask("Servers")
}

func (f *fakeAgent) Authorize(_ context.Context, anonymous bool, rights ...consul.Right) ([]bool, error) {
	if anonymous {
		return make([]bool, len(rights)), f.ask("Anonymous")
	}
	var may []bool
	for _, right := range rights {
		may = append(may, f.may == nil || f.may(right))
	}
	return may, f.ask("Authorize")
}

func (f *fakeAgent) Tokens(context.Context) (consul.Tokens, error) {
	return consul.Tokens{}, f.ask("Tokens")
}

func (f *fakeAgent) Keyrings(context.Context) ([]consul.Keyring, error) {
	return []consul.Keyring{{}}, f.ask("Keyrings")
}

func (f *fakeAgent) Authority(context.Context) (consul.Authority, error) {
	return consul.Authority{TrustDomain: "x"}, f.ask("Authority")
}

func (f *fakeAgent) CAConfig(context.Context) (consul.CAConfig, error) {
	return consul.CAConfig{Provider: "consul"}, f.ask("CAConfig")
}

func (f *fakeAgent) Intentions(context.Context) ([]consul.Intention, error) {
	return []consul.Intention{{}}, f.ask("Intentions")
}

// known tells of everything that an Input holds whether it is known, and if not why, and what would show it.
func known(in *Input) string {
	var b strings.Builder
	say := func(name string, known bool, reason, needs string) {
		switch {
		case known:
			fmt.Fprintf(&b, "%s\n", name)
		default:
			fmt.Fprintf(&b, "%s: %s [%s]\n", name, reason, needs)
		}
	}
	say("Running", in.Running.Known, in.Running.Reason, in.Running.Needs)
	say("Anonymous", in.Anonymous.Known, in.Anonymous.Reason, in.Anonymous.Needs)
	say("Tokens", in.Tokens.Known, in.Tokens.Reason, in.Tokens.Needs)
	say("Keyrings", in.Keyrings.Known, in.Keyrings.Reason, in.Keyrings.Needs)
	say("Authority", in.Authority.Known, in.Authority.Reason, in.Authority.Needs)
	say("CAConfig", in.CAConfig.Known, in.CAConfig.Reason, in.CAConfig.Needs)
	say("Intentions", in.Intentions.Known, in.Intentions.Reason, in.Intentions.Needs)
	say("Registrations", in.Registrations.Known, in.Registrations.Reason, in.Registrations.Needs)
	for _, note := range in.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}

func failing(kind consul.Kind, text string) error {
	return &consul.Error{Kind: kind, Err: errors.New(text)}
}

const everything = "Running\nAnonymous\nTokens\nKeyrings\nAuthority\nCAConfig\nIntentions\nRegistrations\n"

func TestLookAsks(t *testing.T) {
	nothing := func(consul.Right) bool { return false }
	whole := []string{"Running", "Authorize", "Services", "Anonymous", "Tokens", "Keyrings", "Authority", "CAConfig", "Intentions", "Servers"}
	withoutIntentions := slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return s == "Intentions" })
	ofClient := strings.Replace(everything, "Intentions\n", "Intentions: whether the list is whole is not known: this agent is a client that "+
		"allows by default, and its servers judge what is in it [acl { enabled = true, default_policy = \"deny\" } in the agent's "+
		"configuration, or an audit of a server]\n", 1)
	gone := func(reason, needs, note string) string {
		var b strings.Builder
		for _, name := range strings.Fields(everything) {
			fmt.Fprintf(&b, "%s: %s [%s]\n", name, reason, needs)
		}
		return b.String() + "note: " + note + "\n"
	}
	denied := func(lacks string) error {
		return failing(consul.KindDenied, "status 403: Permission denied: token with AccessorID 'x' lacks permission "+lacks)
	}
	for _, c := range []struct {
		name    string
		agent   *fakeAgent
		service bool
		want    string
		asked   []string
	}{
		{"everything", &fakeAgent{}, false, everything, whole},
		{"a client", &fakeAgent{client: &consul.Running{ACLDefaultPolicy: new("deny")}}, false, everything, whole},
		{"a client that allows by default", &fakeAgent{client: &consul.Running{ACLDefaultPolicy: new("allow")}}, false, ofClient, withoutIntentions},
		{"a client of which no default is known", &fakeAgent{client: &consul.Running{}}, false, ofClient, withoutIntentions},
		{"a client without ACLs", &fakeAgent{client: &consul.Running{ACLDefaultPolicy: new("deny")},
			errs: map[string]error{"Authorize": failing(consul.KindACLsOff, "ACL support disabled")}}, false,
			strings.Replace(ofClient, "Tokens\n", "Tokens: ACLs are disabled []\n", 1),
			slices.DeleteFunc(slices.Clone(withoutIntentions), func(s string) bool { return s == "Tokens" || s == "Anonymous" })},
		{"an agent that tells nothing of itself", &fakeAgent{errs: map[string]error{"Running": denied(`'agent:read' on "n1"`)}}, false,
			strings.NewReplacer("Running\n", "Running: the token may not read it [agent \"n1\" { policy = \"read\" } in the token's policy]\n", "Intentions\n",
				"Intentions: whether the list is whole is not known: the token may not read it [agent \"n1\" { policy = \"read\" } in the token's policy]\n").Replace(everything),
			withoutIntentions},
		{"gossip is encrypted", &fakeAgent{gossip: new(true)}, false, everything, whole},
		{"gossip is not encrypted", &fakeAgent{gossip: new(false)}, false, strings.Replace(everything, "Keyrings\n", "Keyrings: gossip is not encrypted []\n", 1),
			slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return s == "Keyrings" })},
		{"the service, with every right", &fakeAgent{}, true, everything, whole[:len(whole)-1]},
		{"a token without rights", &fakeAgent{may: nothing, errs: map[string]error{"Running": denied(`'agent:read' on "n1"`),
			"Services": &consul.Error{Kind: consul.KindFiltered, Err: errors.New("it left services out"), Fix: "set a token"}}}, false,
			`Running: the token may not read it [agent "n1" { policy = "read" } in the token's policy]
Anonymous
Tokens: the token may not read it [acl = "read" in the token's policy]
Keyrings: the token may not read it [keyring = "read" in the token's policy]
Authority
CAConfig: the token may not read it [operator = "write" in the token's policy]
Intentions: the token may not read it [service_prefix "" { policy = "read" } in the token's policy]
Registrations: the agent leaves out what the token may not read [set a token]
`, []string{"Running", "Authorize", "Services", "Anonymous", "Authority"}},
		{"operator:read alone", &fakeAgent{may: func(r consul.Right) bool { return r.Resource != "operator" || r.Access == "read" },
			errs: map[string]error{"CAConfig": denied(`'operator:write'`)}}, false,
			strings.Replace(everything, "CAConfig\n", "CAConfig: the token may not read it [operator = \"write\" in the token's policy]\n", 1), whole},
		{"operator:read alone, the service", &fakeAgent{may: func(r consul.Right) bool { return r.Resource != "operator" || r.Access == "read" }}, true,
			strings.Replace(everything, "CAConfig\n", "CAConfig: the token may not read it [run hostagent audit with another token than the service's: operator = \"write\" in the token's policy]\n", 1),
			[]string{"Running", "Authorize", "Services", "Anonymous", "Tokens", "Keyrings", "Authority", "Intentions"}},
		{"what it may do is not told", &fakeAgent{errs: map[string]error{"Authorize": failing(consul.KindStatus, "status 404: no such thing")}}, false,
			strings.Replace(everything, "Intentions\n", "Intentions: whether the list is whole is not known: status 404: no such thing [service_prefix \"\" { policy = \"read\" } in the token's policy]\n", 1),
			slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return s == "Intentions" || s == "Servers" })},
		{"what it may do is not told, the service", &fakeAgent{errs: map[string]error{"Authorize": failing(consul.KindStatus, "status 404: no such thing")}}, true,
			`Running
Anonymous
Tokens: status 404: no such thing [run hostagent audit with another token than the service's: acl = "read" in the token's policy]
Keyrings: status 404: no such thing [run hostagent audit with another token than the service's: keyring = "read" in the token's policy]
Authority
CAConfig: status 404: no such thing [run hostagent audit with another token than the service's: operator = "write" in the token's policy]
Intentions: whether the list is whole is not known: status 404: no such thing [service_prefix "" { policy = "read" } in the token's policy]
Registrations
`, []string{"Running", "Authorize", "Services", "Anonymous", "Authority"}},
		{"ACLs are disabled", &fakeAgent{errs: map[string]error{"Authorize": failing(consul.KindACLsOff, "ACL support disabled")}}, false,
			strings.Replace(everything, "Tokens\n", "Tokens: ACLs are disabled []\n", 1),
			slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return s == "Anonymous" || s == "Tokens" })},
		{"the mesh is off", &fakeAgent{errs: map[string]error{"Authority": failing(consul.KindMeshOff, "Connect must be enabled")}}, false,
			strings.NewReplacer("Authority\n", "Authority: the service mesh is off []\n", "CAConfig\n", "CAConfig: the service mesh is off []\n",
				"Intentions\n", "Intentions: the service mesh is off []\n").Replace(everything),
			slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return s == "CAConfig" || s == "Intentions" })},
		{"a token that Consul does not know", &fakeAgent{errs: map[string]error{"all": failing(consul.KindDenied, "status 403: ACL not found")}}, true,
			`Running: the token may not read it [agent "NODE" { policy = "read" } in the token's policy]
Anonymous: Consul refuses the token [a token that Consul knows]
Tokens: Consul refuses the token [run hostagent audit with another token than the service's: acl = "read" in the token's policy]
Keyrings: Consul refuses the token [run hostagent audit with another token than the service's: keyring = "read" in the token's policy]
Authority: Consul refuses the token [a token that Consul knows]
CAConfig: Consul refuses the token [run hostagent audit with another token than the service's: operator = "write" in the token's policy]
Intentions: whether the list is whole is not known: Consul refuses the token [service_prefix "" { policy = "read" } in the token's policy]
Registrations: the token may not read it [service_prefix "" { policy = "read" } in the token's policy]
note: status 403: ACL not found
`, []string{"Running", "Authorize", "Services", "Anonymous", "Authority"}},
		{"unreachable", &fakeAgent{errs: map[string]error{"all": failing(consul.KindUnreachable, "connection refused")}}, false,
			gone("the agent does not answer", "an agent that runs, and its address in CONSUL_HTTP_ADDR or consul { address }", "connection refused"), []string{"Running"}},
		{"impostor", &fakeAgent{errs: map[string]error{"all": failing(consul.KindImpostor, "another user's")}}, false,
			gone("what listens at the agent's address is not trusted", "an agent that runs as root or consul { user }", "another user's"), []string{"Running"}},
		{"hangs", &fakeAgent{errs: map[string]error{"all": failing(consul.KindTimeout, "too late")}}, false,
			gone("the agent did not answer in time", "an agent that answers; consul { timeout } lets it take longer", "too late"), []string{"Running"}},
		{"hangs over keyrings", &fakeAgent{errs: map[string]error{"Keyrings": failing(consul.KindTimeout, "too late")}}, false,
			strings.Replace(everything, "Keyrings\n", "Keyrings: the agent did not answer in time [an agent that answers; consul { timeout } lets it take longer]\n", 1), whole},
		{"stops half-way", &fakeAgent{errs: map[string]error{"Authority": failing(consul.KindUnreachable, "connection refused")}}, false,
			strings.NewReplacer("Authority\n", "Authority: the agent does not answer [an agent that runs, and its address in CONSUL_HTTP_ADDR or consul { address }]\n",
				"CAConfig\n", "CAConfig: the agent does not answer [an agent that runs, and its address in CONSUL_HTTP_ADDR or consul { address }]\n",
				"Intentions\n", "Intentions: the agent does not answer [an agent that runs, and its address in CONSUL_HTTP_ADDR or consul { address }]\n",
			).Replace(everything) + "note: connection refused\n", whole[:7]},
		{"an old one, and the token may read all", &fakeAgent{errs: map[string]error{"Services": failing(consul.KindTooOld, "it is old")}}, false, everything, whole},
		{"an old one", &fakeAgent{may: func(r consul.Right) bool { return r.Resource != "service" }, errs: map[string]error{"Services": failing(consul.KindTooOld, "it is old")}}, false,
			strings.Replace(everything, "Registrations\n", "Registrations: the agent is too old to say what it leaves out [Consul "+consul.MinVersion+" or later]\n", 1), whole},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Look(t.Context(), Sources{Consul: c.agent, Service: c.service})
			if diff := cmp.Diff(c.want, known(&in)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(c.asked, c.agent.asked); diff != "" {
				t.Errorf("asked: -want +got\n%s", diff)
			}
			if in.ServerCertificates.Known && c.service {
				t.Error("the service asked servers")
			}
		})
	}
}

func TestLookTellsACLsOff(t *testing.T) {
	in := Look(t.Context(), Sources{Consul: &fakeAgent{errs: map[string]error{"Authorize": failing(consul.KindACLsOff, "off")}}})
	if diff := cmp.Diff(Known(Rights{ACLsOff: true}), in.Anonymous); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// files tells of everything that is read from files.
func files(in *Input) string {
	var b strings.Builder
	for _, s := range []struct {
		name          string
		known         bool
		reason, needs string
	}{
		{"Disk", in.Disk.Known, in.Disk.Reason, in.Disk.Needs},
		{"ConfigFiles", in.ConfigFiles.Known, in.ConfigFiles.Reason, in.ConfigFiles.Needs},
		{"KeyFiles", in.KeyFiles.Known, in.KeyFiles.Reason, in.KeyFiles.Needs},
		{"DataFiles", in.DataFiles.Known, in.DataFiles.Reason, in.DataFiles.Needs},
		{"Registrations", in.Registrations.Known, in.Registrations.Reason, in.Registrations.Needs},
	} {
		if s.known {
			fmt.Fprintf(&b, "%s\n", s.name)
		} else {
			fmt.Fprintf(&b, "%s: %s [%s]\n", s.name, s.reason, s.needs)
		}
	}
	for _, note := range in.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}

func TestLookReadsFiles(t *testing.T) {
	dir := t.TempDir()
	const secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="
	write(t, dir, map[string]string{
		"conf/a.hcl":   fmt.Sprintf("data_dir = %q\nencrypt = %q\nservice { name = \"web\", token = %q }", dir+"/data", secret, secret),
		"data/node-id": "x", "broken/a.hcl": "encrypt = \"" + secret + "\" {", "odd/a.hcl": "no_such_key = \"" + secret + "\"",
	})
	pid, _ := startAgent(t, dir, "agent", "-config-dir=conf", "-encrypt", secret)
	bare, _ := startAgent(t, dir, "agent", "-dev")
	const relax = "note: no agent was asked: services that were registered through its API are not known\n"
	const whole = "Disk\nConfigFiles\nKeyFiles\nDataFiles\nRegistrations\n"
	noAgent := func(reason, needs string) string {
		var b strings.Builder
		for _, name := range []string{"Disk", "ConfigFiles", "KeyFiles"} {
			fmt.Fprintf(&b, "%s: %s [%s]\n", name, reason, needs)
		}
		return b.String()
	}
	for _, c := range []struct {
		name string
		from Sources
		want string
	}{
		{"files alone", Sources{ConfigPaths: []string{dir + "/conf"}}, whole + relax},
		{"files, and an agent that does not answer", Sources{ConfigPaths: []string{dir + "/conf"},
			Consul: &fakeAgent{errs: map[string]error{"all": failing(consul.KindUnreachable, "refused")}}},
			"Disk\nConfigFiles\nKeyFiles\nDataFiles\nRegistrations: the agent does not answer [an agent that runs, and its address in " +
				"CONSUL_HTTP_ADDR or consul { address }]\nnote: refused\n"},
		{"what its process reads", Sources{Root: true, PID: pid, Consul: &fakeAgent{dataDir: dir + "/data"}},
			whole + "note: the agent was started with flags, which stand over its files and are not read: -encrypt\n"},
		{"what its process reads, without root", Sources{PID: pid, Consul: &fakeAgent{}}, noAgent("where its files are was not asked of its process",
			"run as root, or --consul-config with the agent's configuration") + "DataFiles: in which folder is not known [--consul-config with the agent's configuration]\n" +
			"Registrations\nnote: the agent was started with flags, which stand over its files and are not read: -encrypt\n"},
		{"it reads none", Sources{Root: true, PID: bare, Consul: &fakeAgent{dataDir: dir + "/data"}},
			"Disk: the agent was started without configuration files []\nConfigFiles\nKeyFiles: the agent was started without configuration files []\n" +
				"DataFiles\nRegistrations\nnote: the agent was started with flags, which stand over its files and are not read: -dev\n"},
		{"no process", Sources{Root: true, Consul: &fakeAgent{}}, noAgent("where its files are is not known: its process was not found",
			"--consul-config with the agent's configuration") + "DataFiles: in which folder is not known [--consul-config with the agent's configuration]\nRegistrations\n"},
		{"the service", Sources{Service: true, Root: true, PID: pid, ConfigPaths: []string{dir + "/conf"}, Consul: &fakeAgent{dataDir: dir + "/data"}},
			noAgent("the service reads no file that may hold secrets", "run hostagent audit as root") + "DataFiles\nRegistrations\n"},
		{"a broken file", Sources{ConfigPaths: []string{dir + "/broken"}, Consul: &fakeAgent{}}, fmt.Sprintf(
			"Disk: %[1]s cannot be read, so that what the files say is not whole [run as root, and mend the file]\nConfigFiles\n"+
				"KeyFiles: %[1]s cannot be read, so that what the files say is not whole [run as root, and mend the file]\n"+
				"DataFiles: in which folder is not known [--consul-config with the agent's configuration]\nRegistrations\n", dir+"/broken/a.hcl")},
		{"an unknown key", Sources{ConfigPaths: []string{dir + "/odd"}, Consul: &fakeAgent{dataDir: dir + "/data"}}, whole},
		{"no such folder", Sources{ConfigPaths: []string{dir + "/none"}, Consul: &fakeAgent{dataDir: dir + "/data"}},
			noAgent(fmt.Sprintf("cannot read %q: no such file or directory", dir+"/none"), "--consul-config with the agent's configuration") + "DataFiles\nRegistrations\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Look(t.Context(), c.from)
			got := files(&in)
			if strings.Contains(got, secret) {
				t.Errorf("tells a secret:\n%s", got)
			}
			var lines []string
			for line := range strings.Lines(got) {
				if !strings.HasPrefix(line, "note: configuration: ") {
					lines = append(lines, line)
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(lines, "")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestLookSeesNothing looks with a token that may do nothing, with an agent that is away, and with nothing at all.
func TestLookSeesNothing(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "a.hcl")
	if err := os.WriteFile(broken, []byte("encrypt = {{{"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		from Sources
	}{
		{"denied", Sources{Consul: &fakeAgent{may: func(consul.Right) bool { return false }, errs: map[string]error{"all": failing(consul.KindDenied, "denied")}}}},
		{"filtered", Sources{Consul: &fakeAgent{may: func(consul.Right) bool { return false }, errs: map[string]error{
			"all": failing(consul.KindFiltered, "filtered"), "Authorize": nil}}}},
		{"away", Sources{Consul: &fakeAgent{errs: map[string]error{"all": failing(consul.KindUnreachable, "away")}}}},
		{"unsupported", Sources{Consul: &fakeAgent{errs: map[string]error{"all": errors.ErrUnsupported}}}},
		{"nothing", Sources{}},
		{"a broken file", Sources{ConfigPaths: []string{broken}}},
	} {
		for _, service := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, service), func(t *testing.T) {
				c.from.Service = service
				report := Evaluate(Look(t.Context(), c.from))
				for _, row := range report.Rows {
					if row.Status == Pass {
						t.Errorf("passes: %+v", row)
					}
				}
			})
		}
	}
}
