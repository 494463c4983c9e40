// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// blockedBy is a block of a port that should be open.
func blockedBy(tool firewall.Tool, chain string, port uint16, families ...firewall.Family) firewall.Block {
	words := strings.Fields(chain)
	if families == nil {
		families = []firewall.Family{firewall.IPv4, firewall.IPv6}
	}
	return firewall.Block{
		Probe: firewall.Probe{Protocol: firewall.TCP, Port: port, Open: true}, Families: families,
		Family: words[0], Table: words[1], Chain: words[2], Rule: "policy drop", Tool: tool,
	}
}

// ofConsul makes a block one of a port of Consul.
func ofConsul(b firewall.Block, protocol firewall.Protocol) firewall.Block {
	b.Open, b.Protocol = false, protocol
	return b
}

func TestBlockedFindings(t *testing.T) {
	tests := []struct {
		name   string
		change func(in *Input)
		want   []string
	}{
		{"nothing blocked", func(*Input) {}, nil},
		{"a chain of the operator's", func(in *Input) {
			in.Blocked = []firewall.Block{blockedBy(firewall.ToolNFT, "inet filter input", 21000)}
		}, []string{
			`opening-blocked: port 21000 cannot be reached from the network: chain "input" of table inet "filter" drops what comes there (policy drop)`,
			`nft add set inet filter mesh_ports '{ type inet_service; }' && nft insert rule inet filter input tcp dport @mesh_ports accept; both in the file of the ruleset, too; and publish_set = "inet filter mesh_ports" in hostagent's firewall block`,
		}},
		{"two ports, one family, a port that is not open any more", func(in *Input) {
			in.Registrations = append(in.Registrations, app("api", 8081), sidecar("api", 21001))
			in.Blocked = []firewall.Block{
				blockedBy(firewall.ToolNFT, "ip6 t in", 21001, firewall.IPv6), blockedBy(firewall.ToolNFT, "ip6 t in", 21000, firewall.IPv6),
				blockedBy(firewall.ToolNFT, "ip6 t in", 21099, firewall.IPv6)}
			in.Policy.PublishSet = firewall.SetName{Family: "ip6", Table: "t", Set: "mine"}
		}, []string{
			`opening-blocked: ports 21000-21001 cannot be reached from the network over IPv6: chain "in" of table ip6 "t" drops what comes there (policy drop)`,
			`nft insert rule ip6 t in tcp dport @mine accept; and in the file of the ruleset, too`,
		}},
		{"a set that is missing", func(in *Input) {
			b := blockedBy(firewall.ToolNFT, "inet filter input", 21000)
			b.NoSet = true
			in.Blocked = []firewall.Block{b}
			in.Policy.PublishSet = firewall.SetName{Family: "inet", Table: "filter", Set: "mesh"}
		}, []string{
			`opening-blocked: port 21000 cannot be reached from the network: chain "input" of table inet "filter" drops what comes there (policy drop)`,
			`nft add set inet filter mesh '{ type inet_service; }' && nft insert rule inet filter input tcp dport @mesh accept; both in the file of the ruleset, too`,
		}},
		{"two tables", func(in *Input) {
			in.Policy.ExtraPorts = firewall.Ports(9443)
			in.Registrations = append(in.Registrations, sidecar("far", 9443))
			in.Blocked = []firewall.Block{blockedBy(firewall.ToolNFT, "inet b in", 9443), blockedBy(firewall.ToolNFT, "inet a in", 21000)}
		}, []string{
			`opening-blocked: port 21000 cannot be reached from the network: chain "in" of table inet "a" drops what comes there (policy drop)`,
			`nft add set inet a mesh_ports '{ type inet_service; }' && nft insert rule inet a in tcp dport @mesh_ports accept; both in the file of the ruleset, too; and publish_set = "inet a mesh_ports" in hostagent's firewall block`,
			`opening-blocked: port 9443 cannot be reached from the network: chain "in" of table inet "b" drops what comes there (policy drop)`,
			`nft insert rule inet b in tcp dport '{ 9443, 21000-21255 }' accept; and in the file of the ruleset, too`,
		}},
		{"firewalld", func(in *Input) {
			in.Policy.ExtraPorts = firewall.Ports(9443)
			in.Registrations = append(in.Registrations, sidecar("far", 9443))
			in.Blocked = []firewall.Block{blockedBy(firewall.ToolFirewalld, "inet firewalld filter_INPUT", 21000), blockedBy(firewall.ToolFirewalld, "inet firewalld filter_INPUT", 9443)}
		}, []string{
			`opening-blocked: ports 9443, 21000 cannot be reached from the network: chain "filter_INPUT" of table inet "firewalld" (firewalld) drops what comes there (policy drop)`,
			`firewall-cmd --permanent --add-port=9443/tcp --add-port=21000-21255/tcp && firewall-cmd --reload`,
		}},
		{"ufw and iptables", func(in *Input) {
			in.Blocked = []firewall.Block{blockedBy(firewall.ToolUFW, "ip filter INPUT", 21000, firewall.IPv4), blockedBy(firewall.ToolIptables, "ip6 raw PREROUTING", 21000, firewall.IPv6)}
		}, []string{
			`opening-blocked: port 21000 cannot be reached from the network over IPv4: chain "INPUT" of table ip "filter" (ufw) drops what comes there (policy drop)`,
			`ufw allow 21000:21255/tcp, or set accept = "head" in hostagent's firewall block`,
			`opening-blocked: port 21000 cannot be reached from the network over IPv6: chain "PREROUTING" of table ip6 "raw" (iptables) drops what comes there (policy drop)`,
			`ip6tables -t raw -I PREROUTING -p tcp --dport 21000:21255 -j ACCEPT; and save the rules as this host does`,
		}},
		{"Consul's gossip", func(in *Input) {
			in.Agent.Ports["serf_lan"], in.Agent.Ports["serf_wan"] = 8301, 8302
			in.Listeners = append(in.Listeners, listeners("tcp 10.0.0.1:8301", "udp 10.0.0.1:8301", "tcp 0.0.0.0:8302", "tcp 0.0.0.0:8300")...)
			chain := "inet firewalld filter_INPUT"
			in.Blocked = []firewall.Block{
				ofConsul(blockedBy(firewall.ToolFirewalld, chain, 8301), firewall.TCP), ofConsul(blockedBy(firewall.ToolNFT, "ip t in", 8301), firewall.UDP),
				ofConsul(blockedBy(firewall.ToolNFT, "ip6 t in", 8301, firewall.IPv6), firewall.UDP), // the agent has an IPv4 address
				ofConsul(blockedBy(firewall.ToolFirewalld, chain, 8302), firewall.TCP)}
		}, []string{
			`consul-port-blocked: Consul's serf_lan port 8301/tcp cannot be reached from the network: chain "filter_INPUT" of table inet "firewalld" (firewalld) drops what comes there (policy drop)`,
			`firewall-cmd --permanent --add-port=8301/tcp && firewall-cmd --reload`,
			`consul-port-blocked: Consul's serf_lan port 8301/udp cannot be reached from the network: chain "in" of table ip "t" drops what comes there (policy drop)`,
			`nft insert rule ip t in udp dport 8301 accept; and in the file of the ruleset, too`,
		}},
		{"names that would be more than a word", func(in *Input) {
			in.Blocked = []firewall.Block{blockedBy(firewall.ToolNFT, "inet a;reboot in\x1b", 21000)}
			in.Policy.PublishSet = firewall.SetName{Family: "inet", Table: "x", Set: "y"}
		}, []string{
			`opening-blocked: port 21000 cannot be reached from the network: chain "in\x1b" of table inet "a;reboot" drops what comes there (policy drop)`,
			`nft insert rule inet 'a;reboot' 'in\u001b' tcp dport 21000-21255 accept; and in the file of the ruleset, too`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			tt.change(&in)
			var got []string
			for _, f := range Evaluate(in).Findings {
				if f.ID == catalog.OpeningBlocked || f.ID == catalog.ConsulPortBlocked {
					got = append(got, string(f.ID)+": "+f.Message, f.Remedy)
					if udp := strings.Contains(f.Message, "/udp"); udp != (f.Protocol == sockets.UDP) {
						t.Errorf("%q has the protocol %d", f.Message, f.Protocol)
					}
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			slices.Reverse(in.Blocked)
			var again []string
			for _, f := range Evaluate(in).Findings {
				if f.ID == catalog.OpeningBlocked || f.ID == catalog.ConsulPortBlocked {
					again = append(again, string(f.ID)+": "+f.Message, f.Remedy)
				}
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("in another order it says something else (-first +second):\n%s", diff)
			}
		})
	}
}

func TestProbes(t *testing.T) {
	in := base()
	in.Agent.Ports["serf_lan"], in.Agent.Ports["serf_wan"] = 8301, 8302
	in.Listeners = append(in.Listeners, listeners("tcp 10.0.0.1:8301", "udp 127.0.0.1:8301", "tcp 0.0.0.0:8300", "udp 0.0.0.0:8302")...)
	in.Policy.Accept = firewall.Accept{Chain: "MESH"}
	for server, want := range map[bool]string{false: "tcp 21000 MESH, tcp 8301", true: "tcp 21000 MESH, tcp 8301, udp 8302, tcp 8300"} {
		in.Agent.Server = server
		res := Evaluate(in)
		var got []string
		for _, p := range probesOf(&res, &in.Agent, in.Listeners, &in.Policy) {
			got = append(got, strings.TrimSpace(fmt.Sprint(p.Protocol, " ", p.Port, " ", p.Accept.Chain)))
			if p.Open != (p.Port == 21000) {
				t.Errorf("probe %+v", p)
			}
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("server %v: probes %s, want %s", server, text, want)
		}
	}
}

// fakeSet is a set of the operator's.
type fakeSet struct {
	ports firewall.PortSet
	calls int
	fails error
}

func (s *fakeSet) publish(_ context.Context, open firewall.PortSet) (bool, error) {
	s.calls++
	if s.fails != nil {
		return false, s.fails
	}
	changed := s.ports != open
	s.ports = open
	return changed, nil
}

func (h *fakeHost) publishing(mode Mode, name string, s *fakeSet) Parts {
	parts := h.parts(mode)
	parts.Publish, parts.Policy.PublishSet = s.publish, firewall.SetName{Family: "inet", Table: "filter", Set: name}
	return parts
}

func TestPublish(t *testing.T) {
	h := newFakeHost()
	one, two := &fakeSet{ports: firewall.Ports(1)}, &fakeSet{}
	h.runParts(t, h.publishing(ModeGuard, "one", one), func(reload chan<- Parts) {
		pass(3 * time.Second)
		want(t, "published", "21000", one.ports.String())
		h.applyFail = errors.New("no")
		one.calls = 0
		pass(2 * time.Second)
		want(t, "calls while the firewall fails", "0", fmt.Sprint(one.calls))
		h.applyFail = nil
		one.fails = firewall.ErrWrongSet
		pass(2 * time.Second)
		want(t, "a set that fails does not fail the firewall", guarded, h.state())
		one.fails = nil
		pass(2 * time.Second)
		reload <- h.publishing(ModeGuard, "two", two)
		pass(2 * time.Second)
		want(t, "after another set was named", "none 21000", one.ports.String()+" "+two.ports.String())
		one.ports = firewall.Ports(7)
		pass(2 * time.Second)
		want(t, "a set that is left is emptied once", "7", one.ports.String())
		reload <- h.publishing(ModeObserve, "two", two)
		pass(2 * time.Second)
		want(t, "in observe mode", "none", two.ports.String())
		two.ports = firewall.Ports(7)
		pass(2 * time.Second)
		want(t, "in observe mode the set is emptied once", "7", two.ports.String())
	})
	if log := h.log.String(); !strings.Contains(log, "step=publish_set") || !strings.Contains(log, "recovered") {
		t.Errorf("the log says nothing of a set that failed:\n%s", log)
	}
}

// TestSetThatIsLeft: it is emptied even if that fails at first, and forgotten where it is gone.
func TestSetThatIsLeft(t *testing.T) {
	h := newFakeHost()
	set := &fakeSet{}
	h.runParts(t, h.publishing(ModeGuard, "one", set), func(reload chan<- Parts) {
		pass(2 * time.Second)
		set.fails = errors.New("busy")
		reload <- h.parts(ModeGuard)
		pass(2 * time.Second)
		set.fails = nil
		pass(time.Second)
		want(t, "emptied", "none", set.ports.String())
		reload <- h.publishing(ModeGuard, "one", set)
		pass(time.Second)
		set.fails = errors.New("busy")
		reload <- h.parts(ModeGuard)
		pass(2 * time.Second)
		set.fails, h.applyFail = nil, errors.New("held lock")
		reload <- h.publishing(ModeGuard, "one", set)
		pass(2 * time.Second)
		want(t, "named again before it was emptied", "21000", set.ports.String())
		h.applyFail = nil
		pass(2 * time.Second)
		set.fails = firewall.ErrNoSet
		reload <- h.parts(ModeGuard)
		pass(time.Second)
		set.calls = 0
		pass(3 * time.Second)
		want(t, "calls for a set that is gone", "0", fmt.Sprint(set.calls))
	})
}

// TestBlockedIsLookedAt when the ports are others, once a minute, and after a reload.
func TestBlockedIsLookedAt(t *testing.T) {
	h := newFakeHost()
	var probes []firewall.Probe
	calls := 0
	parts := h.parts(ModeGuard)
	var fails error
	parts.Blocked = func(_ context.Context, p []firewall.Probe) ([]firewall.Block, error) {
		probes, calls = p, calls+1
		return []firewall.Block{blockedBy(firewall.ToolNFT, "inet filter input", 21000)}, fails
	}
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(10 * time.Second)
		if calls > 2 || len(probes) != 1 || probes[0].Port != 21000 {
			t.Errorf("%d looks in 10 s, at %v", calls, probes)
		}
		if out := h.report.Checks[1].Output; !strings.Contains(out, "opening-blocked") {
			t.Errorf("the check says\n%s", out)
		}
		before := calls
		h.regs = append(slices.Clone(h.regs), app("api", 8081), sidecar("api", 21001))
		pass(2 * time.Second)
		if calls != before+1 || len(probes) != 2 {
			t.Errorf("after a port more %d looks, at %v", calls-before, probes)
		}
		before, fails = calls, errors.New("too fast")
		pass(time.Minute)
		if calls != before+1 {
			t.Errorf("%d looks in a minute", calls-before)
		}
		reload <- parts
		pass(time.Second)
		if calls != before+2 {
			t.Errorf("%d looks after a reload", calls-before-1)
		}
		if out := h.report.Checks[1].Output; !strings.Contains(out, "opening-blocked") {
			t.Errorf("after a look that failed the check says\n%s", out)
		}
	})
	if !strings.Contains(h.log.String(), "step=blocked") {
		t.Error("the log says nothing of the look that failed")
	}
}

// TestStopIsNoFailure: a question that a stop cuts off is no step that failed.
func TestStopIsNoFailure(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.Blocked = func(ctx context.Context, _ []firewall.Probe) ([]firewall.Block, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("cannot list the tables: %w", ctx.Err())
	}
	h.runAgent(t, parts, func(*Agent, chan<- Parts) {})
	if log := h.log.String(); strings.Contains(log, "step failed") || !strings.Contains(log, "msg=stopped") {
		t.Errorf("a stop is told as\n%s", log)
	}
}
