// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// membersOf makes the answer in which an agent names these addresses: as a real client reads them, since nobody else can.
func membersOf(t testing.TB, text string) consul.Members {
	t.Helper()
	var entries []string
	for _, addr := range addrs(text) {
		entries = append(entries, fmt.Sprintf(`{"Addr":%q,"Status":1,"Tags":{"dc":"dc1"}}`, addr))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
		fmt.Fprintf(w, "[%s]", strings.Join(entries, ","))
	}))
	defer srv.Close()
	client, err := consul.New(consul.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	members, err := client.Members(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// cluster is a fake host whose operator lets in the members of the datacenter.
type cluster struct {
	*fakeHost
	members      consul.Members
	membersFail  error
	networks     facts.Networks
	networksFail error
	asks, looks  int
}

func newCluster() *cluster { return &cluster{fakeHost: newFakeHost()} }

func (c *cluster) parts(mode Mode) Parts {
	parts := c.fakeHost.parts(mode)
	parts.Policy.AllowCluster, parts.Policy.AllowBridges = true, true
	parts.Members = func(context.Context) (consul.Members, error) {
		c.asks++
		return c.members, c.membersFail
	}
	parts.Networks = func(context.Context) (facts.Networks, error) {
		c.looks++
		return c.networks, c.networksFail
	}
	return parts
}

// sources is who the kernel lets in to open ports.
func (c *cluster) sources() string {
	return fmt.Sprintf("open %s to %v", c.rules.Open, c.rules.AllowFrom)
}

var noRights = &consul.Error{Kind: consul.KindFiltered, Err: errors.New(`give it node_prefix "" { policy = "read" }`)}

func TestMembersConnect(t *testing.T) {
	one, two, three := membersOf(t, "10.0.0.1"), membersOf(t, "10.0.0.1 10.0.0.2"), membersOf(t, "10.0.0.1 10.0.0.2 fd00::3")
	c := newCluster()
	c.members, c.networks = two, facts.Networks{Addresses: addrs("10.0.0.1 172.17.0.1"), Bridged: prefixes("172.17.0.0/16")}
	c.runParts(t, c.parts(ModeGuard), func(reload chan<- Parts) {
		const before = "open 21000 to [10.0.0.1/32 10.0.0.2/32 172.17.0.0/16]"
		const with3 = "open 21000 to [10.0.0.1/32 10.0.0.2/32 172.17.0.0/16 fd00::3/128]"
		want(t, "at once", before, c.sources())
		pass(61 * time.Second)
		if c.asks != 7 || c.looks != 13 {
			t.Errorf("in a minute the agent was asked %d times and the kernel %d, want 7 and 13", c.asks, c.looks)
		}
		c.members = three
		pass(10 * time.Second)
		want(t, "one question later", with3, c.sources())
		c.members = two
		pass(38 * time.Second)
		want(t, "28 s after the first answer without it", with3, c.sources())
		c.membersFail = noRights
		pass(time.Minute)
		want(t, "while there are no whole answers", with3, c.sources())
		c.membersFail = nil
		pass(10 * time.Second)
		want(t, "after the first one", with3, c.sources())
		pass(31 * time.Second)
		want(t, "in the end", before, c.sources())

		c.members = one
		pass(2 * time.Minute)
		want(t, "while the agent knows nobody else", before, c.sources())

		c.networks = facts.Networks{Addresses: addrs("10.0.0.1"), Bridged: prefixes("172.18.0.0/16")}
		pass(5 * time.Second)
		want(t, "with another bridge", "open 21000 to [10.0.0.1/32 10.0.0.2/32 172.18.0.0/16]", c.sources())
		c.networksFail = errors.New("interrupted")
		c.networks = facts.Networks{}
		pass(10 * time.Second)
		want(t, "while the kernel does not tell", "open 21000 to [10.0.0.1/32 10.0.0.2/32 172.18.0.0/16]", c.sources())
		c.networksFail = nil

		asks := c.asks
		reload <- c.parts(ModeGuard)
		pass(0)
		if c.asks != asks+1 {
			t.Errorf("after a reload the agent was asked %d times at once", c.asks-asks)
		}
		parts := c.parts(ModeGuard)
		parts.Policy.AllowCluster = false
		reload <- parts
		pass(0)
		want(t, "with nobody named", "open 21000 to []", c.sources())
		var looks int
		asks, looks = c.asks, c.looks
		pass(time.Minute)
		if c.asks != asks || c.looks != looks {
			t.Errorf("sources that nobody limits are asked for: %d and %d times", c.asks-asks, c.looks-looks)
		}
		c.members = three
		reload <- c.parts(ModeGuard)
		pass(0)
		want(t, "with members again", "open 21000 to [10.0.0.1/32 10.0.0.2/32 fd00::3/128]", c.sources())
	})
	if log := c.log.String(); !strings.Contains(log, "step=members") || !strings.Contains(log, "step=networks") {
		t.Errorf("the log does not tell of what could not be asked:\n%s", log)
	}
}

// TestNobodyIsLetInForLackOfMembers: without a list of members the rules stay as they are, and hostagent says why.
func TestNobodyIsLetInForLackOfMembers(t *testing.T) {
	c := newCluster()
	c.members, c.membersFail = membersOf(t, "10.0.0.1 10.0.0.2"), noRights
	c.facts.Datacenter = "dc9"
	c.watched(t, c.parts(ModeGuard), func(a *Agent) {
		pass(time.Minute)
		if c.applies > 0 {
			t.Errorf("the kernel was changed: %s", c.sources())
		}
		st := a.Status()
		for what, text := range map[string]string{"firewall": st.Firewall.Error, "consul": st.Consul.Error} {
			if !strings.Contains(text, `give it node_prefix "" { policy = "read" }`) {
				t.Errorf("%s error: %q", what, text)
			}
		}
		if c.asks < 5 || c.asks > 20 {
			t.Errorf("asked %d times in a minute", c.asks)
		}
		want(t, "life check", "warning", string(c.report.Life.Status))
		want(t, "firewall check", "critical", string(checkOf(c.report, "firewall").Status))
		c.membersFail = nil
		pass(time.Minute)
		if err := a.Status().Firewall.Error; c.applies > 0 || !strings.Contains(err, `none of them says that it is in "dc9"`) {
			t.Errorf("members of another datacenter: %d applies, %q", c.applies, err)
		}
		c.facts.Datacenter = "dc1"
		pass(time.Minute) // the agent's facts are asked for every 30 s
		want(t, "with an answer", "open 21000 to [10.0.0.1/32 10.0.0.2/32]", c.sources())
		st = a.Status()
		want(t, "status", "[cluster] 2  ", fmt.Sprint(st.Firewall.AllowFrom, " ", st.Firewall.Sources, " ", st.Firewall.Error, " ", st.Consul.Error))
	})
}

// TestRestartKeepsMembers: who was let in stays so, with no answer about members and with one of an agent that has just
// started; and of two runs the second does not take "nobody is known" for "nobody".
func TestRestartKeepsMembers(t *testing.T) {
	const adopted = "open 21000 to [10.0.0.1/32 10.0.0.2/32]"
	left := firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000), AllowFrom: prefixes("10.0.0.1 10.0.0.2")}
	for name, before := range map[string]func(*cluster){
		"no answer":           func(c *cluster) { c.membersFail = noRights },
		"an agent on its own": func(c *cluster) { c.members = membersOf(t, "10.0.0.1") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster()
			c.rules, c.exists = left, true
			before(c)
			after := membersOf(t, "10.0.0.1 10.0.0.3")
			c.runParts(t, c.parts(ModeGuard), func(chan<- Parts) {
				pass(2 * time.Minute)
				want(t, "meanwhile", adopted, c.sources())
				if c.applies == 0 {
					t.Error("the guard was not brought up to date")
				}
				c.members, c.membersFail = after, nil
				pass(12 * time.Second)
				want(t, "with members", "open 21000 to [10.0.0.1/32 10.0.0.2/32 10.0.0.3/32]", c.sources())
				pass(40 * time.Second)
				want(t, "in the end", "open 21000 to [10.0.0.1/32 10.0.0.3/32]", c.sources())
			})
		})
	}
	t.Run("no Consul at all", func(t *testing.T) {
		c := newCluster()
		c.rules, c.exists = left, true
		c.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("connection refused")}
		c.runParts(t, c.parts(ModeGuard), func(chan<- Parts) {
			pass(time.Minute)
			want(t, "with Consul down", adopted, c.sources())
			if c.applies > 0 || c.asks > 0 {
				t.Errorf("%d applies, %d questions", c.applies, c.asks)
			}
		})
	})
}

// TestAgentAwayAgesNobody: while Consul does not answer, no time counts for anybody's absence.
func TestAgentAwayAgesNobody(t *testing.T) {
	c := newCluster()
	c.members = membersOf(t, "10.0.0.1 10.0.0.2 10.0.0.3")
	without := membersOf(t, "10.0.0.1 10.0.0.2")
	c.runParts(t, c.parts(ModeGuard), func(chan<- Parts) {
		pass(5 * time.Second)
		c.members = without
		pass(10 * time.Second)
		asks := c.asks
		c.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("connection refused")}
		pass(10 * time.Minute)
		if c.asks != asks {
			t.Errorf("an agent that does not answer was asked %d times more", c.asks-asks)
		}
		c.fails = nil
		pass(20 * time.Second)
		if !strings.Contains(c.sources(), "10.0.0.3/32") {
			t.Errorf("a member went in time without answers: %s", c.sources())
		}
		pass(30 * time.Second)
		want(t, "in the end", "open 21000 to [10.0.0.1/32 10.0.0.2/32]", c.sources())
	})
}

// TestUnknownBridgesAreNotShutOut: while the kernel has not told which bridges there are, who is let in stays let in.
func TestUnknownBridgesAreNotShutOut(t *testing.T) {
	c := newCluster()
	c.members, c.networksFail = membersOf(t, "10.0.0.1 10.0.0.2"), errors.New("interrupted")
	c.networks = facts.Networks{Bridged: prefixes("172.17.0.0/16")}
	c.rules = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000), AllowFrom: prefixes("10.0.0.1 10.0.0.2 172.17.0.0/16")}
	c.exists = true
	const before = "open 21000 to [10.0.0.1/32 10.0.0.2/32 172.17.0.0/16]"
	without := c.parts(ModeGuard)
	without.Policy.AllowBridges = false
	c.runAgent(t, c.parts(ModeGuard), func(a *Agent, reload chan<- Parts) {
		pass(12 * time.Second)
		want(t, "while the kernel does not tell", before, c.sources())
		if text := a.Status().Firewall.Error; !strings.Contains(text, "bridges are not known yet: interrupted") {
			t.Errorf("the status says %q", text)
		}
		reload <- without
		pass(time.Second)
		want(t, "without bridges, of which there is nothing to know", "open 21000 to [10.0.0.1/32 10.0.0.2/32]", c.sources())
		c.networksFail = nil
		reload <- c.parts(ModeGuard)
		pass(time.Second)
		want(t, "told", before, c.sources())
		c.networksFail = errors.New("interrupted")
		pass(12 * time.Second)
		want(t, "later", before, c.sources())
	})
	if _, err := LookAhead(t.Context(), c.parts(ModeObserve)); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("a plan that does not know the bridges: %v", err)
	}
}

// TestLifeTellsOfUnknownMembers without claiming that there was an answer.
func TestLifeTellsOfUnknownMembers(t *testing.T) {
	c := newCluster()
	c.membersFail = noRights
	c.runParts(t, c.parts(ModeGuard), func(chan<- Parts) {
		pass(time.Second)
		if life := c.report.Life; life.Status != consul.Warning || !strings.Contains(life.Output, "Who is a member is not known") {
			t.Errorf("the life check is %+v", life)
		}
	})
}

// TestScanAndPlanWithMembers: both ask who the members are; a plan that does not know them would be a wrong one.
func TestScanAndPlanWithMembers(t *testing.T) {
	c := newCluster()
	c.members, c.networks = membersOf(t, "10.0.0.1 10.0.0.2"), facts.Networks{Bridged: prefixes("172.17.0.0/16")}
	parts := c.parts(ModeObserve)
	parts.Policy.AllowFrom = prefixes("192.0.2.0/24")
	c.rules = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000), AllowFrom: prefixes("10.0.0.2 10.0.0.9")}
	c.exists = true
	parts.Connections = func(context.Context, uint16, uint16) ([]sockets.Connection, error) {
		return connections("10.0.0.1:21000 10.0.0.2", "10.0.0.1:21000 172.17.0.9", "10.0.0.1:21000 192.0.2.8", "10.0.0.1:21000 10.0.0.9"), nil
	}
	plan, err := LookAhead(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	d := plan.Document("1")
	want(t, "plan", "[cluster 192.0.2.0/24] 4", fmt.Sprint(d.AllowFrom, d.Sources))
	if len(plan.Cuts) != 1 || !plan.Cuts[0].Outside || plan.Cuts[0].Connections != 1 {
		t.Errorf("only 10.0.0.9 loses its connection: %+v", plan.Cuts)
	}
	c.rules.AllowFrom = append([]netip.Prefix(nil), plan.Rules.AllowFrom...)
	if plan, err = LookAhead(t.Context(), parts); err != nil || len(plan.Cuts) > 0 {
		t.Errorf("a plan that changes nothing: %+v, %v", plan, err)
	}

	c.membersFail, c.networksFail = noRights, errors.New("interrupted")
	scan, err := Look(t.Context(), parts)
	if err != nil || len(scan.Notes) != 2 || !strings.Contains(scan.Notes[0], "node_prefix") || !strings.Contains(scan.Notes[1], "interrupted") {
		t.Errorf("a scan without members: %v, %v", scan, err)
	}
	if _, err := LookAhead(t.Context(), parts); err == nil || !strings.Contains(err.Error(), "node_prefix") {
		t.Errorf("a plan without members: %v", err)
	}
	parts.Members = nil // as with service definitions
	if _, err := LookAhead(t.Context(), parts); err == nil || !strings.Contains(err.Error(), "no Consul agent is asked") {
		t.Errorf("a plan without an agent: %v", err)
	}
}
