// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/host"
)

// hardenedClient is what an audit says of a hardened client agent beside what it says of a server.
func hardenedClient(t *testing.T) string {
	t.Helper()
	return hardenedServer
}

// TestClient: a client agent, joined to a server on another host.
func TestClient(t *testing.T) {
	t.Parallel()
	k := kitFor(t)
	h := newHost(t)
	b := boxOn(t, k, h)
	server := newNode(t, k, h, h.Net, host.NetIPv4, h.Dir+"/server")
	server.write("agent.hcl", strings.Replace(server.hardened(), `node_name = "host"`, `node_name = "server"`, 1)+asServer)
	server.start(hardenedProcess())
	own := *k // this datacenter has tokens of its own
	b.kit, server.kit = &own, &own
	own.management = server.bootstrap()
	own.agent = server.tokenWith("agent", "node \"host\" { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\n")
	own.web, own.db = server.tokenWith("web", "", "web"), server.tokenWith("db", "", "db")
	own.hostagent = server.tokenWith("hostagent", k.policy)

	b.copyKey(clientCertificate)
	b.write("agent.hcl", b.hardened()+fmt.Sprintf("retry_join = [%q]\n", host.NetIPv4))
	b.start(hardenedProcess())
	_, err := b.manager().Agent().UpdateAgentACLToken(own.agent.secret, nil)
	b.must(err)
	b.registerHardened()
	b.configure(own.hostagent, "")
	b.applications()
	b.guard()
	b.expect("an audit of a client", hardenedClient(t), b.full())
}

// devServer is what an audit says of an agent that was started with -dev: nothing is demanded, and nothing is on the network
// but what listens there without it.
const devServer = `acl-enabled fail
acl-default-deny n/a
acl-anonymous n/a
acl-instance-tokens n/a
acl-token-scope n/a
acl-management-token n/a
acl-token-persistence n/a
gossip-encryption fail
gossip-verify n/a
gossip-key n/a
tls-verify-outgoing fail
tls-verify-incoming n/a
tls-verify-server-hostname n/a
tls-certificate n/a
tls-ca n/a
tls-key-files n/a
tls-server-certificates n/a
api-http pass
api-https fail
api-grpc pass
restart-pending n/a
ca-enabled pass
ca-provider warn
ca-root-expiry pass
ca-intermediate-expiry n/a
ca-rotation pass
ca-leaf-ttl pass
range-closed fail
range-free pass
range-reserved pass
sidecar-ports n/a
consul-ports-reachable n/a
consul-ports-unexposed pass
instance-tokens n/a
app-listeners n/a
upstream-listeners n/a
proxy-admin n/a
loopback-tenancy n/a
intention-default n/a
intention-wildcards pass
config-files n/a
data-files n/a
agent-user fail
agent-hardening warn
`

// TestDev: an agent as one starts it to look at Consul.
func TestDev(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	process, err := b.host.Start("consul", b.namespace.Command(context.Background(), b.kit.path("consul"), "agent", "-dev", "-node=host"))
	b.must(err)
	host.ShowLog(t, process)
	b.process = process
	b.until("the agent has a leader", b.ready)
	b.expect("an audit of a -dev agent", devServer, b.audit(0, ""))
}

// kernelRows pass on what the kernel tells everybody.
func kernelRows() []string {
	return []string{
		"range-closed", "range-free", "range-reserved", "sidecar-ports", "app-listeners", "upstream-listeners", "consul-ports-reachable",
		"consul-ports-unexposed", "proxy-admin",
	}
}

// wantPassed wants only some rows to pass.
func (b *box) wantPassed(what string, d document, may ...string) {
	b.t.Helper()
	for _, r := range d.Items {
		if r.Status == "pass" && !slices.Contains(may, r.ID) {
			b.t.Errorf("%s: %s passes on what could not be seen: %q", what, r.ID, r.Found)
		}
		if r.Status == "unknown" && r.Needs == "" {
			b.t.Errorf("%s: %s is unknown and does not say what would show it: %q", what, r.ID, r.Found)
		}
	}
}

// TestBlind: what could not be seen passes nowhere.
func TestBlind(t *testing.T) {
	t.Parallel()
	b := newHardened(t, hardenedProcess(), nil)
	nothing := b.tokenWith("nothing", `key "none" { policy = "read" }`)

	// What stands in files that root reads, on sockets and in processes is still seen.
	withoutAPI := b.audit(0, "", "--consul-config", b.path("consul.d"))
	b.wantPassed("no token", withoutAPI, slices.Concat(kernelRows(), []string{
		"acl-enabled", "acl-default-deny", "acl-anonymous", "acl-instance-tokens", "acl-token-persistence", "gossip-encryption", "gossip-verify",
		"tls-verify-outgoing", "tls-verify-incoming", "tls-verify-server-hostname", "tls-certificate", "tls-ca", "tls-key-files",
		"tls-server-certificates", "api-http", "api-https", "api-grpc", "restart-pending", "ca-enabled", "ca-root-expiry", "ca-rotation",
		"instance-tokens", "intention-default", "config-files", "data-files", "agent-user", "agent-hardening",
	})...)

	for what, secret := range map[string]string{"no token": "", "a token that may see nothing": nothing.secret} {
		d := b.audit(nobodyUID, secret)
		// The roots of the mesh, and what the agent says that nobody may do, are told to everybody.
		b.wantPassed(what+", as nobody", d, "ca-enabled", "ca-root-expiry", "ca-rotation", "acl-enabled", "acl-anonymous", "agent-user",
			"agent-hardening", "range-reserved")
	}
}

// TestOwnPolicy: the policy that acl-policy prints shows less than the management token, and nothing else.
func TestOwnPolicy(t *testing.T) {
	t.Parallel()
	b := newHardened(t, hardenedProcess(), nil)
	got := b.audit(0, b.kit.hostagent.secret, "--consul-config", b.path("consul.d"))
	all := b.full()
	want := map[string]string{}
	for _, r := range all.Items {
		want[r.ID] = r.Status
	}
	for _, r := range got.Items {
		if r.Status != want[r.ID] && r.Status != "unknown" {
			t.Errorf("%s is %s, and %s with a token that may see everything: %q", r.ID, r.Status, want[r.ID], r.Found)
		}
	}
	b.wantPassed("hostagent's own policy", got, all.passed()...)
	for _, id := range []string{"acl-token-scope", "gossip-key", "ca-leaf-ttl"} {
		if !strings.Contains(got.text(), id+" unknown\n") {
			t.Errorf("%s is known without the right to see it", id)
		}
	}

	// Root finds the agent's configuration by its process.
	b.expect("an audit that was not told where the configuration is", all.text(),
		b.audit(0, b.kit.management.secret, "--config", b.path("conf")))
}

// TestStopped: with the agent stopped its files still tell, and as nobody, who may not read them, the API alone.
func TestStopped(t *testing.T) {
	t.Parallel()
	b := newHardened(t, hardenedProcess(), nil)
	byAPI := b.audit(nobodyUID, b.kit.management.secret)
	for _, id := range []string{
		"acl-enabled", "acl-default-deny", "acl-anonymous", "gossip-encryption", "gossip-key", "tls-verify-outgoing", "tls-verify-incoming",
		"tls-verify-server-hostname", "api-http", "api-https", "api-grpc", "ca-enabled", "ca-root-expiry", "ca-leaf-ttl", "intention-default",
		"intention-wildcards",
	} {
		if r := byAPI.row(id); r.Status != "pass" {
			t.Errorf("by the API alone %s does not pass: %+v", id, r)
		}
	}
	b.wantPassed("the API alone, as nobody", byAPI, slices.DeleteFunc(b.full().passed(), func(id string) bool {
		return slices.Contains([]string{"acl-instance-tokens", "acl-management-token", "instance-tokens", "config-files", "data-files", "tls-key-files", "range-closed"}, id)
	})...)

	b.stop()
	byFiles := b.audit(0, b.kit.management.secret, "--consul-config", b.path("consul.d"))
	for _, id := range []string{
		"acl-enabled", "acl-default-deny", "acl-token-persistence", "gossip-encryption", "gossip-verify", "tls-verify-outgoing",
		"tls-verify-incoming", "tls-verify-server-hostname", "tls-certificate", "tls-ca", "tls-key-files", "api-http", "api-https",
		"api-grpc", "intention-default",
	} {
		if r := byFiles.row(id); r.Status != "pass" {
			t.Errorf("by the files alone %s does not pass: %+v", id, r)
		}
	}
	b.wantPassed("files alone", byFiles, slices.DeleteFunc(strings.Fields(strings.ReplaceAll(hardenedServer, " pass", "")), func(id string) bool {
		return slices.Contains([]string{
			"acl-anonymous", "acl-token-scope", "acl-management-token", "gossip-key", "restart-pending", "ca-root-expiry",
			"ca-rotation", "ca-leaf-ttl", "intention-wildcards", "agent-user", "agent-hardening", "tls-server-certificates",
		}, id)
	})...)
}

// TestFormats: what is printed for people holds every row too, and no secret.
func TestFormats(t *testing.T) {
	t.Parallel()
	b := newHardened(t, hardenedProcess(), nil)
	env := []string{"CONSUL_HTTP_TOKEN=" + b.kit.management.secret}
	for _, format := range []string{"table", "markdown", "json"} {
		all := []string{"audit", "--format", format, "--config", b.path("conf"), "--consul-config", b.path("consul.d")}
		out, code, err := b.runs(0, env, all...)
		b.must(err)
		_, strict, err := b.runs(0, env, append(all, "--fail-on", "warn")...)
		b.must(err)
		if code != 0 || strict != 1 { // ca-provider warns
			t.Errorf("--format %s ends with %d, and with --fail-on warn with %d", format, code, strict)
		}
		for line := range strings.Lines(hardenedServer) {
			if id, _, _ := strings.Cut(line, " "); !strings.Contains(out, id) {
				t.Errorf("--format %s does not name %s", format, id)
			}
		}
	}
	only := b.audit(0, b.kit.management.secret, "--config", b.path("conf"), "--consul-config", b.path("consul.d"), "--only", "acl-enabled")
	if diff := cmp.Diff("acl-enabled pass\n", only.text()); diff != "" {
		t.Errorf("--only (-want +got):\n%s", diff)
	}
}

// TestService: hostagent itself reports the checklist on its service, and not with audit = false.
func TestService(t *testing.T) {
	t.Parallel()
	b := newHardened(t, hardenedProcess(), nil)
	find := func() (output string, found bool) {
		checks, err := b.manager().Agent().ChecksWithFilter(`ServiceID == "` + hostagentService + `"`)
		b.must(err)
		for _, check := range checks {
			b.tellsNoSecret("check "+check.CheckID, check.Output+check.Notes)
			if check.Name == checklist {
				output, found = check.Output, true
			}
		}
		return output, found
	}
	// The first audit comes up to a minute after the first answer of the agent.
	b.within(90*time.Second, "hostagent reports the checklist", func() error {
		if _, found := find(); !found {
			return fmt.Errorf("there is no check %q", checklist)
		}
		return nil
	})
	output, _ := find()
	for _, id := range []string{"acl-instance-tokens", "instance-tokens"} { // files with tokens are not read by the service
		if strings.Contains(output, id+": pass") {
			t.Errorf("the service says that %s passes:\n%s", id, output)
		}
	}
	for _, format := range []string{"table", "json"} {
		if _, _, err := b.runs(0, nil, "status", "--format", format); err != nil {
			t.Error(err)
		}
	}
	b.reconfigure("audit = false\n")
	b.until("the check is gone", func() error {
		if output, found := find(); found {
			return fmt.Errorf("it says\n%s", output)
		}
		return nil
	})
}
