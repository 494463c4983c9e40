// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// member is another host of the network with a Consul agent that has joined the host's datacenter.
type member struct {
	*host.Neighbour
	agent *host.Process
}

// members adds hosts of these names to the network and returns when the host's agent counts them as members.
func (w *world) members(names ...string) []member {
	w.t.Helper()
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	var all []member
	for _, name := range names {
		n, err := w.Neighbour()
		w.must(err)
		data := filepath.Join(w.Dir, "consul-data-"+name)
		w.must(os.MkdirAll(data, 0o700))
		agent, err := w.Start("consul "+name, n.Command(context.Background(), binary, "agent", "-node", name, "-bind", n.IPv4, "-data-dir", data,
			"-retry-join", host.IPv4, "-retry-interval", "1s", "-hcl", `disable_update_check = true`))
		w.must(err)
		all = append(all, member{n, agent})
	}
	for _, name := range names {
		w.memberTurns(name, 1)
	}
	return all
}

// memberTurns waits until the host's agent gives a member that status, as serf numbers it: 1 alive, 3 left, 4 failed.
func (w *world) memberTurns(name string, status int) {
	w.t.Helper()
	w.until(fmt.Sprintf("member %s has status %d", name, status), func() error {
		members, err := w.consul.API().Agent().Members(false)
		for _, m := range members {
			if m.Name == name && m.Status == status {
				return nil
			}
		}
		return errors.Join(fmt.Errorf("the members are %v", members), err)
	})
}

// expect wants n to see port of the host as given at each address.
func (w *world) expect(who string, n *host.Namespace, port uint16, want host.Reach, addresses ...string) {
	w.t.Helper()
	for _, address := range addresses {
		got, err := n.Reachable(w.ctx, at(address, port))
		w.must(err)
		if got != want {
			w.t.Errorf("from %s %s is %s, want %s", who, at(address, port), got, want)
		}
	}
}

// turns waits until n sees port of the host as given.
func (w *world) turns(who string, n *host.Namespace, port uint16, want host.Reach, within time.Duration) {
	w.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		got, err := n.Reachable(w.ctx, at(host.IPv4, port))
		w.must(err)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("from %s %s is %s after %v, want %s", who, at(host.IPv4, port), got, within, want)
		}
	}
}

// cluster is a host whose operator lets in the members of its datacenter: b and c, and not the stranger beside them.
type cluster struct {
	*world
	sidecar   uint16
	b, c      member
	stranger  *host.Neighbour
	container *host.Neighbour // of the host
	file      string          // hostagent's configuration
	base      string          // what is always in it
	agent     *host.Process
}

func newCluster(t *testing.T, closeDelay string) *cluster {
	t.Helper()
	c := &cluster{world: newWorld(t, host.ConsulOptions{}), file: filepath.Join(t.TempDir(), "h.hcl")}
	c.base = fmt.Sprintf("poll_interval = \"200ms\"\ncheck_interval = \"1s\"\nclose_delay = %q\nmode = \"guard\"\nallow_from = [\"cluster\"]\n", closeDelay)
	_, c.sidecar = c.service("web", 8080, "127.0.0.1:8080")
	members := c.members("b", "c")
	c.b, c.c = members[0], members[1]
	var err error
	c.stranger, err = c.Neighbour()
	c.must(err)
	c.container, err = c.Container()
	c.must(err)
	c.write("")
	c.agent = c.start("", "--config", c.file)
	c.guarded()
	c.turns("b", c.b.Namespace, c.sidecar, host.Open, 5*time.Second)
	return c
}

func (c *cluster) write(more string) {
	c.t.Helper()
	c.must(os.WriteFile(c.file, []byte(c.base+more), 0o600))
}

// stands wants what is so throughout: b is a member, and nobody is let in who is none.
func (c *cluster) stands() {
	c.t.Helper()
	c.expect("b", c.b.Namespace, c.sidecar, host.Open, host.IPv4)
	c.expect("b", c.b.Namespace, c.sidecar, host.Dropped, host.IPv6) // Consul knows one address of a member
	c.expect("a stranger", c.stranger.Namespace, c.sidecar, host.Dropped, both()...)
	c.expect("the network", c.Net, c.sidecar, host.Dropped, both()...)
	c.expect("the host itself", c.Local, c.sidecar, host.Open, both()...)
}

// TestClusterConnects: members of the datacenter reach open ports, and so do the host and its containers; others on the
// same network do not. Who leaves is shut out after close_delay, who only fails is not.
func TestClusterConnects(t *testing.T) {
	c := newCluster(t, "12s")
	c.stands()
	c.expect("c", c.c.Namespace, c.sidecar, host.Open, host.IPv4)
	c.expect("a container", c.container.Namespace, c.sidecar, host.Open, both()...)
	c.checkTurns("firewall", "passing", "\nFrom:    cluster\n")
	plan := c.hostagent(0, "firewall", "plan", "--config", c.file)
	if !strings.Contains(plan, "open ports admit cluster only (") || !strings.Contains(plan, "nothing would change") {
		t.Errorf("plan says\n%s", plan)
	}
	c.hostagent(0, "scan", "--config", c.file, "--fail-on", "never")

	c.write("allow_local_bridges = false\n")
	c.must(c.agent.Signal(syscall.SIGHUP))
	c.turns("a container", c.container.Namespace, c.sidecar, host.Dropped, 5*time.Second)
	c.expect("a container", c.container.Namespace, c.sidecar, host.Dropped, both()...)
	c.stands()
	c.write("")
	c.must(c.agent.Signal(syscall.SIGHUP))
	c.turns("a container", c.container.Namespace, c.sidecar, host.Open, 5*time.Second)

	c.must(c.b.agent.Kill())
	c.must(c.c.agent.Stop()) // a client that is told to end leaves
	c.memberTurns("c", 3)
	left := time.Now()
	c.turns("c, which has left,", c.c.Namespace, c.sidecar, host.Dropped, 50*time.Second)
	if after := time.Since(left); after < 12*time.Second { // hostagent hears of it within 10 s
		t.Errorf("c was shut out %v after it left; close_delay is 12 s", after)
	}
	c.memberTurns("b", 4)
	c.stands() // b is still a member
}

// TestClusterWithoutConsul: while the agent does not answer all stays as it is, over a restart of hostagent too, and an
// agent that has just started shuts nobody out by knowing nobody.
func TestClusterWithoutConsul(t *testing.T) {
	c := newCluster(t, "4s")
	c.must(c.b.agent.Kill()) // nobody will tell the agent of b when it starts again
	c.must(c.c.agent.Kill())
	c.must(c.consul.Stop())
	c.must(c.agent.WaitLog(c.ctx, "step=consul"))
	c.stands()
	c.must(c.agent.Stop())
	c.stands()
	before := c.run("ipset", "save", "hostagent-from4")
	agent := c.start("", "--config", c.file)
	c.must(agent.WaitLog(c.ctx, "adopted the rules of an earlier run"))
	c.must(agent.WaitLog(c.ctx, "step=consul"))
	time.Sleep(5 * time.Second) // close_delay is 4 s
	c.stands()
	c.expect("a container", c.container.Namespace, c.sidecar, host.Open, both()...)
	if after := c.run("ipset", "save", "hostagent-from4"); after != before {
		t.Errorf("a restart without Consul changes who may connect:\n%s\nwas\n%s", after, before)
	}

	c.must(c.consul.Restart(c.ctx))
	c.must(agent.WaitLog(c.ctx, "msg=recovered step=consul"))
	time.Sleep(12 * time.Second) // the agent is asked for members every 10 s
	c.stands()
}

// TestClusterNeedsNodeRead: without the right to see members nothing is decided, and the error names the rule; with it
// everything works; and when it is taken away, the last state stands.
func TestClusterNeedsNodeRead(t *testing.T) {
	w := newWorld(t, defaultDeny())
	_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
	b := w.members("b")[0]
	dir, err := w.Configure(quick)
	w.must(err)
	policy := w.policyOf(dir) // for everybody, not the cluster
	given := w.grant("hostagent", policy)

	const remedy = `node_prefix "" { policy = "read" }`
	agent := w.start(quick+fmt.Sprintf("allow_from = [\"cluster\"]\nconsul { token_file = %q }\n", given.file()), "--mode", "guard")
	w.checkTurns("alive", "warning", remedy)
	w.checkTurns("firewall", "critical", "cannot tell who may connect")
	time.Sleep(3 * time.Second) // two equal answers about services have come
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("with nobody known it holds\n%s", show)
	}
	w.reaches(sidecar, host.Open)

	given.change(policy + remedy)
	w.guarded()
	w.checkTurns("firewall", "passing", "\nFrom:    cluster\n")
	w.checkTurns("alive", "passing", "guard mode")
	w.expect("b", b.Namespace, sidecar, host.Open, host.IPv4)
	w.expect("the network", w.Net, sidecar, host.Dropped, both()...)

	given.change(policy)
	w.checkTurns("alive", "warning", "who was let in last still is")
	w.checkTurns("firewall", "passing", "\nFrom:    cluster\n")
	time.Sleep(5 * time.Second) // close_delay is 4 s
	w.expect("b", b.Namespace, sidecar, host.Open, host.IPv4)
	w.expect("the network", w.Net, sidecar, host.Dropped, both()...)
	if log := agent.Log(); strings.Contains(log, given.token.SecretID) {
		t.Errorf("hostagent's log has the token:\n%s", log)
	}
}
