// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

const management = "11111111-2222-3333-4444-555555555555"

// frugal is the least that a token needs, without node:read.
const frugal = `
agent "host"        { policy = "read" }
service_prefix ""   { policy = "read" }
service "hostagent" { policy = "write" }
`

// defaultDeny is an agent that denies by default, and whose tokens and policies count as they are now.
func defaultDeny() host.ConsulOptions {
	return host.ConsulOptions{
		Token: management,
		Config: fmt.Sprintf(`acl {
  enabled = true
  default_policy = "deny"
  token_ttl = "0s"
  policy_ttl = "0s"
  tokens {
    initial_management = %q
    agent = %[1]q
  }
}`, management),
	}
}

// private is a hostagent whose /run/hostagent is a folder of its own, so that its status can be asked beside other tests.
type private struct {
	*host.Process
	w      *world
	run    string // the folder
	config string // the folder with its configuration
}

// startPrivately starts hostagent in guard mode with a configuration and further variables, and shows its log if the test
// fails.
func (w *world) startPrivately(config string, env ...string) *private {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	p := &private{w: w}
	p.config, err = w.Configure(config)
	w.must(err)
	p.run, err = os.MkdirTemp(w.Dir, "run-")
	w.must(err)
	const script = `mkdir -p /run/hostagent && mount --bind "$0" /run/hostagent && exec "$@"`
	cmd := w.Command(context.Background(), "unshare", "-m", "sh", "-ec", script, p.run, binary, "run", "--mode", "guard", "--config", p.config)
	cmd.Env = append(os.Environ(), env...)
	p.Process, err = w.Start("hostagent", cmd)
	w.must(err)
	host.ShowLog(w.t, p.Process)
	return p
}

// says runs the built program in the host and returns what it writes, on one line, and its exit status.
func (w *world) says(args ...string) (string, int) {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	out, code, err := w.Run(w.ctx, binary, args...)
	w.must(err)
	return oneLine(out), code
}

// socket is where its status is asked for.
func (p *private) socket() string { return filepath.Join(p.run, "hostagent.sock") }

// status is what hostagent status writes, on one line, and its exit status.
func (p *private) status() (string, int) { return p.w.says("status", "--socket", p.socket()) }

// tells is all that hostagent status knows, in trouble too.
func (p *private) tells() (s hostagent.Status) {
	p.w.t.Helper()
	text, _ := p.w.says("status", "--format", "json", "--socket", p.socket())
	p.w.must(json.Unmarshal([]byte(text), &s))
	return s
}

// statusTurns waits until the exit status and text are so.
func (p *private) statusTurns(code int, text string) {
	p.w.t.Helper()
	p.w.until(fmt.Sprintf("hostagent status ends with %d and says %s", code, text), func() error {
		if said, is := p.status(); is != code || !strings.Contains(said, text) {
			return fmt.Errorf("it ends with %d and says %s", is, said)
		}
		return nil
	})
}

// logged is what was logged since the log had that many bytes, without the quotes of its values.
func (p *private) logged(since int) string { return strings.ReplaceAll(p.Log()[since:], `\"`, `"`) }

// logs waits until text was logged since then.
func (p *private) logs(since int, text string) {
	p.w.t.Helper()
	p.w.until("the log has "+text, func() error {
		if !strings.Contains(p.logged(since), text) {
			return errors.New("not there yet")
		}
		return nil
	})
}

// lifeSays waits until the check that says that hostagent lives has the status and text.
func (w *world) lifeSays(status, text string) {
	w.t.Helper()
	w.until("the life check is "+status+" and says "+text, func() error {
		if c := w.check("alive"); c == nil || c.Status != status || !strings.Contains(oneLine(c.Output), text) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// rights are hostagent's policy and token.
type rights struct {
	w      *world
	policy *api.ACLPolicy
	token  *api.ACLToken
}

// grant makes a policy of rules, and a token that has it.
func (w *world) grant(name, rules string) *rights {
	w.t.Helper()
	policy, _, err := w.consul.API().ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	w.must(err)
	r := &rights{w: w, policy: policy}
	r.newToken()
	return r
}

func (r *rights) newToken() {
	r.w.t.Helper()
	var err error
	r.token, _, err = r.w.consul.API().ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: r.policy.Name}}}, nil)
	r.w.must(err)
}

func (r *rights) deleteToken() {
	r.w.t.Helper()
	_, err := r.w.consul.API().ACL().TokenDelete(r.token.AccessorID, nil)
	r.w.must(err)
}

// write puts the token into a file, as a careful writer does.
func (r *rights) write(path string) {
	r.w.t.Helper()
	r.w.must(os.WriteFile(path+".new", []byte(r.token.SecretID+"\n"), 0o600))
	r.w.must(os.Rename(path+".new", path))
}

// file returns a new file that holds the token.
func (r *rights) file() string {
	r.w.t.Helper()
	path := filepath.Join(r.w.t.TempDir(), "token")
	r.write(path)
	return path
}

// change gives the policy other rules.
func (r *rights) change(rules string) {
	r.w.t.Helper()
	r.policy.Rules = rules
	_, _, err := r.w.consul.API().ACL().PolicyUpdate(r.policy, nil)
	r.w.must(err)
}

// acl is a host under default deny with a member b, and what stands there while hostagent guards it.
type acl struct {
	*world
	b       member
	sidecar uint16
}

func newACL(t *testing.T) *acl {
	t.Helper()
	w := &acl{world: newWorld(t, defaultDeny())}
	_, w.sidecar = w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("squatter", 21200)
	w.b = w.members("b")[0]
	return w
}

// stands wants b, a member, to reach the sidecar and nothing else to be reached.
func (w *acl) stands() {
	w.t.Helper()
	w.expect("b", w.b.Namespace, w.sidecar, host.Open, host.IPv4)
	w.expect("the network", w.Net, w.sidecar, host.Dropped, host.IPv4)
	w.expect("b", w.b.Namespace, 21200, host.Dropped, host.IPv4)
}

// policyOf is what hostagent acl-policy prints for a configuration.
func (w *world) policyOf(config string) string {
	w.t.Helper()
	policy := w.hostagent(0, "acl-policy", "--config", config)
	if !strings.Contains(policy, "# The node's name was told by the agent") {
		w.t.Errorf("acl-policy says\n%s", policy)
	}
	return policy
}

// without takes the line of a rule out of a policy.
func without(t *testing.T, policy, rule string) string {
	t.Helper()
	if strings.Count(policy, "\n"+rule+"\n") != 1 {
		t.Fatalf("the policy has no rule %s:\n%s", rule, policy)
	}
	return strings.Replace(policy, "\n"+rule+"\n", "\n", 1)
}

// missing is a rule, and where its lack is seen.
type missing struct {
	rule string
	// step is what fails in the log.
	step string
	// check tells that the life check names the rule.
	check bool
	// scan is what a scan prints, and its exit status; empty where it needs no such right.
	scan     string
	scanCode int
}

// TestDefaultDeny: with the policy that hostagent prints everything works, each of its rules is needed and named where it is
// missing, and whatever is missing, the state stands until it is there again.
func TestDefaultDeny(t *testing.T) {
	netns.Once(t)
	w := newACL(t)
	anonymous := w.startPrivately(quick)
	anonymous.logs(0, "no token was sent")
	w.expect("the network", w.Net, 21200, host.Open, host.IPv4)
	w.must(anonymous.Stop())

	const cluster = "allow_from = [\"cluster\"]\n"
	dir, err := w.Configure(quick + cluster)
	w.must(err)
	policy := w.policyOf(dir)
	given := w.grant("hostagent", policy)
	config := fmt.Sprintf("%sconsul { token_file = %q }\n", quick, given.file())
	web := w.grant("web", `service "web" { policy = "write" }`)
	// Whoever may write web alone takes the ids of hostagent's checks before it does.
	for _, id := range []string{"hostagent:firewall", "hostagent:service:web"} {
		w.must(w.consul.API().Agent().CheckRegisterOpts(&api.AgentCheckRegistration{
			ID: id, Name: "all is well", ServiceID: "web", AgentServiceCheck: api.AgentServiceCheck{TTL: "24h", Status: "passing"},
		}, &api.QueryOptions{Token: web.token.SecretID}))
	}

	agent := w.startPrivately(config + cluster)
	w.guarded()
	w.turns("b", w.b.Namespace, w.sidecar, host.Open, 5*time.Second)
	w.checkTurns("alive", "passing", "guard mode")
	w.checkTurns("service:web", "passing", "web listens on loopback only")
	w.checkTurns("firewall", "passing", "Guarded: 21000-21255")
	agent.statusTurns(0, "open to cluster only")
	w.stands()
	if log := agent.Log(); strings.Contains(log, "level=ERROR") {
		t.Errorf("hostagent's log has an error:\n%s", log)
	}

	for _, m := range []missing{
		{`agent "host" { policy = "read" }`, "consul", true, "the sidecar range is assumed: ", 1},
		{`service_prefix "" { policy = "read" }`, "consul", true, "left services out", 2},
		{`node_prefix "" { policy = "read" }`, "members", true, "left members out", 1},
		{`service "hostagent" { policy = "write" }`, "report", false, "", 1},
	} {
		w.takeAway(agent, given, policy, m)
	}

	// Without members no right on a node is needed: the catalog's index moves for whoever may not see what moved it.
	w.must(os.WriteFile(filepath.Join(agent.config, "hostagent.hcl"), []byte(config), 0o600))
	policy = w.policyOf(agent.config)
	given.change(policy)
	w.must(agent.Signal(syscall.SIGHUP))
	w.turns("the network", w.Net, w.sidecar, host.Open, 5*time.Second)
	if strings.Contains(policy, "\nnode") {
		t.Errorf("acl-policy asks for a right on nodes:\n%s", policy)
	}
	w.until("changes of the catalog wake the loop", func() error {
		if is := agent.tells().Consul.Wakeup; is.State != hostagent.WakeupWaiting {
			return fmt.Errorf("status says %+v", is)
		}
		return nil
	})
	agent.statusTurns(0, "")
}

// takeAway takes a rule out of the policy, wants its lack to be told and the state to stand, and gives it back.
func (w *acl) takeAway(agent *private, given *rights, policy string, m missing) {
	w.t.Helper()
	since := len(agent.Log())
	given.change(without(w.t, policy, m.rule))
	w.must(agent.Signal(syscall.SIGHUP)) // the agent's facts and the members are not asked for all the time
	agent.logs(since, "configuration reloaded")
	agent.logs(since, `step failed, the last good state stands" step=`+m.step)
	agent.logs(since, m.rule)
	agent.statusTurns(1, m.rule)
	if m.check {
		w.lifeSays("warning", m.rule)
	}
	said, code := w.says("scan", "--config", agent.config)
	if code != m.scanCode || m.scan != "" && (!strings.Contains(said, m.scan) || !strings.Contains(said, m.rule)) ||
		m.scan == "" && strings.Contains(said, m.rule) {
		w.t.Errorf("without %s scan ends with %d and says %s", m.rule, code, said)
	}
	w.stands()

	given.change(policy)
	agent.logs(since, "recovered step="+m.step)
	agent.statusTurns(0, "")
	w.lifeSays("passing", "guard mode")
	w.stands()
}

// TestTokenRotates: a token that is deleted, and a file that vanishes or comes to hold half a token, cost hostagent nothing
// but news until the file is whole again.
func TestTokenRotates(t *testing.T) {
	w := newWorld(t, defaultDeny())
	_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("squatter", 21200)
	dir, err := w.Configure(quick)
	w.must(err)
	given := w.grant("hostagent", w.policyOf(dir))
	file := given.file()
	agent := w.startPrivately(quick + fmt.Sprintf("consul { token_file = %q }\n", file))
	w.guarded()
	agent.statusTurns(0, "guarded 21000-21255")
	stands := func() {
		t.Helper()
		w.expect("the network", w.Net, sidecar, host.Open, host.IPv4)
		w.expect("the network", w.Net, 21200, host.Dropped, host.IPv4)
	}
	for _, step := range []struct {
		breaks, text string
		logged       bool // a trouble of one kind is logged once a minute
		change       func()
	}{
		{"a deleted token", "was deleted, or has expired", true, given.deleteToken},
		{"no file", "no such file or directory", true, func() { w.must(os.Remove(file)) }},
		{"half a token", "was deleted, or has expired", false, func() { w.must(os.WriteFile(file, []byte(given.token.SecretID[:13]), 0o600)) }},
		{"an empty file", "it must hold one token and nothing else", false, func() { w.must(os.Truncate(file, 0)) }},
	} {
		since := len(agent.Log())
		step.change()
		if step.logged {
			agent.logs(since, step.text)
		}
		agent.statusTurns(1, step.text)
		if step.breaks == "a deleted token" {
			time.Sleep(5 * time.Second) // close_delay is 4 s
		}
		stands()
		given.newToken()
		given.write(file)
		if step.logged {
			agent.logs(since, "recovered step=consul")
		}
		agent.statusTurns(0, "")
		w.lifeSays("passing", "guard mode")
		stands()
		if strings.Contains(agent.Log(), given.token.SecretID[:8]) {
			t.Errorf("after %s the log has the token", step.breaks)
		}
	}
}
