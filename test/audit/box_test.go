// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// The services of a hardened host. Both have sidecars; web's has db for an upstream.
const (
	webPort, webSidecar   = 8080, 21000
	dbPort, dbSidecar     = 5432, 21001
	upstreamPort          = 9191
	firstPort, lastPort   = 21000, 21255
	hostagentService      = "hostagent"
	quick                 = "close_delay = \"4s\"\npoll_interval = \"200ms\"\ncheck_interval = \"1s\"\n"
	checklist             = "Production checklist"
	webSidecarID          = "web-sidecar-proxy"
	hardenedReservedPorts = "21000-21255"
)

// box is a host with an agent of Consul, its applications, and hostagent.
type box struct {
	*node
	hostagent *host.Process
	apps      map[string]*host.RunningApp
}

// newHost makes a host whose outgoing connections would take ports of the sidecar range, were they not reserved.
func newHost(t *testing.T) *host.Host {
	t.Helper()
	dir, err := os.MkdirTemp(base, "host-")
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.New(t.Context(), host.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return h
}

// newBox makes a host with the folders of an agent, and no agent.
func newBox(t *testing.T) *box {
	t.Helper()
	k := kitFor(t)
	return boxOn(t, k, newHost(t))
}

func boxOn(t *testing.T, k *kit, h *host.Host) *box {
	t.Helper()
	b := &box{node: newNode(t, k, h, h.Local, host.IPv4, h.Dir), apps: map[string]*host.RunningApp{}}
	b.must(errors.Join(os.Mkdir(b.path("run"), 0o755), os.Mkdir(b.path("conf"), 0o700))) //nolint:gosec // as /run/hostagent is
	b.sysctl("net/ipv4/ip_local_port_range", "15000 60999")
	b.sysctl("net/ipv4/ip_local_reserved_ports", hardenedReservedPorts)
	t.Cleanup(func() { // before the folder goes
		if b.hostagent != nil {
			b.tellsNoSecret("the log of hostagent", b.hostagent.Log())
		}
	})
	return b
}

func (b *box) sysctl(name, value string) {
	b.t.Helper()
	b.must(b.namespace.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) }))
}

// fromTemplate gives the host the hardened server's data, and hostagent's state. Nothing is started.
func (b *box) fromTemplate() {
	b.t.Helper()
	for _, name := range []string{"data", "state"} {
		b.must(os.RemoveAll(b.path(name)))
		b.must(copyTree(b.ctx, filepath.Join(b.kit.template, name), b.path(name)))
	}
	b.write("agent.hcl", b.hardened()+asServer)
	b.write("tokens.hcl", b.withTokens())
	b.configure(b.kit.hostagent, "")
}

// configure writes hostagent's configuration.
func (b *box) configure(t token, more string) {
	b.t.Helper()
	b.must(os.WriteFile(b.path("conf/token"), []byte(t.secret+"\n"), 0o600))
	b.must(os.WriteFile(b.path("conf/hostagent.hcl"), fmt.Appendf(nil, "mode = \"guard\"\nstate_dir = %q\n%s%s\nconsul {\n  token_file = %q\n}\n",
		b.path("state"), quick, more, b.path("conf/token")), 0o600))
}

// newHardened starts a hardened server, of which change may break something first, with its applications and hostagent.
func newHardened(t *testing.T, c confinement, change func(*box)) *box {
	t.Helper()
	b := newBox(t)
	b.fromTemplate()
	if change != nil {
		change(b)
	}
	b.begin(c)
	return b
}

// begin starts the agent, the applications and hostagent.
func (b *box) begin(c confinement) {
	b.t.Helper()
	b.start(c)
	b.applications()
	b.guard()
}

// applications starts what would run on a hardened host; for sidecars stands what listens on their ports.
func (b *box) applications() {
	b.t.Helper()
	b.serve("web", at("127.0.0.1", webPort))
	b.serve("db", at("127.0.0.1", dbPort))
	b.serve("sidecar-web", at("::", webSidecar), at("127.0.0.1", upstreamPort))
	b.serve("sidecar-db", at("::", dbSidecar))
}

func at(address string, port int) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return fmt.Sprintf("%s:%d", address, port)
}

// serve starts an application, or starts it again elsewhere.
func (b *box) serve(name string, listen ...string) {
	b.t.Helper()
	if app := b.apps[name]; app != nil {
		b.must(app.Rebind(b.ctx, listen...))
		return
	}
	app, err := b.host.StartApp(b.ctx, host.App{Name: name, Listen: listen})
	b.must(err)
	b.apps[name] = app
}

func (b *box) unserve(name string) {
	b.t.Helper()
	b.must(b.apps[name].Stop())
	delete(b.apps, name)
}

// command is hostagent on this host. Hosts share /run; each has a /run/hostagent of its own.
func (b *box) command(ctx context.Context, uid int, args ...string) *host.Cmd {
	const script = `mkdir -p /run/hostagent && mount --bind "$0" /run/hostagent && exec "$@"`
	run := []string{"-m", "sh", "-ec", script, b.path("run")}
	if uid != 0 {
		run = append(run, "setpriv", fmt.Sprintf("--reuid=%d", uid), fmt.Sprintf("--regid=%d", uid), "--clear-groups")
	}
	return b.namespace.Command(ctx, "unshare", append(append(run, b.kit.path("hostagent")), args...)...)
}

// guard starts hostagent and waits until it keeps the range closed.
func (b *box) guard() {
	b.t.Helper()
	var err error
	b.hostagent, err = b.host.Start("hostagent", b.command(context.Background(), 0, "run", "--config", b.path("conf")))
	b.must(err)
	host.ShowLog(b.t, b.hostagent)
	b.until("the range is guarded", func() error {
		show, _, err := b.runs(0, nil, "firewall", "show")
		if err != nil {
			return err
		}
		if !strings.Contains(show, fmt.Sprintf("%d-%d", firstPort, lastPort)) {
			return fmt.Errorf("firewall show says\n%s", show)
		}
		return nil
	})
}

// unguard stops hostagent and opens the range.
func (b *box) unguard() {
	b.t.Helper()
	b.must(b.hostagent.Stop())
	if out, code, err := b.runs(0, nil, "firewall", "remove"); err != nil || code != 0 {
		b.t.Fatalf("firewall remove ended with %d: %v\n%s", code, err, out)
	}
}

// runs runs hostagent to its end and returns what it writes to standard output, and its exit status. What it writes must hold
// no secret.
func (b *box) runs(uid int, env []string, args ...string) (string, int, error) {
	b.t.Helper()
	cmd := b.command(b.ctx, uid, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	b.tellsNoSecret("hostagent "+strings.Join(args, " "), out.String()+problems.String())
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		if exit.ExitCode() > 1 {
			b.t.Logf("hostagent %s ended with %d:\n%s", strings.Join(args, " "), exit.ExitCode(), problems.String())
		}
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

// tellsNoSecret wants none in a text.
func (b *box) tellsNoSecret(what, text string) {
	b.t.Helper()
	if err := b.kit.secrets.in(text); err != nil {
		b.t.Errorf("%s: %v", what, err)
	}
}

// document is what an audit prints as JSON, as far as these tests read it.
type document struct {
	Items []row `json:"items"`
}

type row struct {
	ID     string   `json:"id"`
	Status string   `json:"status"`
	Found  []string `json:"found"`
	Needs  string   `json:"needs"`
}

// audit audits the host with a token and arguments, as a user.
func (b *box) audit(uid int, secret string, args ...string) document {
	b.t.Helper()
	var env []string
	if secret != "" {
		env = append(env, "CONSUL_HTTP_TOKEN="+secret)
	}
	out, _, err := b.runs(uid, env, append([]string{"audit", "--format", "json"}, args...)...)
	b.must(err)
	var d document
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		b.t.Fatalf("the audit is no JSON: %v\n%s", err, out)
	}
	if len(d.Items) == 0 {
		b.t.Fatalf("the audit has no items:\n%s", out)
	}
	return d
}

// full is an audit by root, with a token that may see everything and the agent's configuration.
func (b *box) full() document {
	b.t.Helper()
	return b.audit(0, b.kit.management.secret, "--config", b.path("conf"), "--consul-config", b.path("consul.d"))
}

// text is the audit as a list of ids and statuses, a line each.
func (d document) text() string {
	var text strings.Builder
	for _, r := range d.Items {
		fmt.Fprintf(&text, "%s %s\n", r.ID, r.Status)
	}
	return text.String()
}

// evidence is what the rows say whose lines are in neither or both of two lists, for people.
func (d document) evidence(want string) string {
	lines := strings.Split(want, "\n")
	var text strings.Builder
	for _, r := range d.Items {
		if !slices.Contains(lines, r.ID+" "+r.Status) {
			fmt.Fprintf(&text, "%s %s: %q needs %q\n", r.ID, r.Status, r.Found, r.Needs)
		}
	}
	return text.String()
}

// row is the row of an item.
func (d document) row(id string) row {
	for _, r := range d.Items {
		if r.ID == id {
			return r
		}
	}
	return row{}
}

// passed are the rows that pass.
func (d document) passed() (ids []string) {
	for _, r := range d.Items {
		if r.Status == "pass" {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// makeTemplate makes the hardened server that all others are copies of: its ACLs, its services, what hostagent saved.
func (k *kit) makeTemplate(t *testing.T) {
	t.Helper()
	b := boxOn(t, k, newHost(t))
	b.write("agent.hcl", b.hardened()+asServer)
	b.start(hardenedProcess())
	k.management = b.bootstrap()
	k.agent = b.tokenWith("agent", "node \"host\" { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\n")
	k.web = b.tokenWith("web", "", "web")
	k.db = b.tokenWith("db", "", "db")
	k.dns = b.tokenWith("dns", "node_prefix \"\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"read\" }\n")
	_, err := b.manager().Agent().UpdateAgentACLToken(k.agent.secret, nil)
	b.must(err)
	b.configure(token{}, "")
	policy, code, err := b.runs(0, nil, "acl-policy", "--config", b.path("conf"))
	b.must(err)
	if code != 0 {
		b.t.Fatalf("acl-policy ended with %d", code)
	}
	k.policy = policy
	k.hostagent = b.tokenWith("hostagent", policy)
	b.configure(k.hostagent, "")
	b.registerHardened()
	b.guard()
	b.until("hostagent has saved its state and registered itself", func() error {
		checks, err := b.manager().Agent().ChecksWithFilter(`ServiceID == "hostagent"`)
		if err == nil && checks["hostagent:firewall"] == nil {
			err = errors.New("no check")
		}
		return err
	})
	b.must(b.hostagent.Stop())
	b.stop()
	k.template = k.path("template")
	b.must(os.Mkdir(k.template, 0o711)) //nolint:gosec // the agent's user passes through
	for _, name := range []string{"data", "state"} {
		b.must(copyTree(b.ctx, b.path(name), filepath.Join(k.template, name)))
	}
}

// registerHardened registers the services of a hardened host, and lets web call db.
func (b *box) registerHardened() {
	b.t.Helper()
	b.register(b.kit.db, "db", "db", dbPort, dbSidecar, nil)
	b.register(b.kit.web, "web", "web", webPort, webSidecar, toDB("127.0.0.1"))
	_, _, err := b.manager().ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: "db",
		Sources: []*api.SourceIntention{{Name: "web", Action: api.IntentionActionAllow}},
	}, nil)
	b.must(err)
}

// toDB gives a sidecar db for an upstream, at an address.
func toDB(address string) func(*api.AgentServiceRegistration) {
	return func(service *api.AgentServiceRegistration) {
		service.Connect.SidecarService.Proxy = &api.AgentServiceConnectProxyConfig{Upstreams: []api.Upstream{
			{DestinationName: "db", LocalBindAddress: address, LocalBindPort: upstreamPort},
		}}
	}
}
