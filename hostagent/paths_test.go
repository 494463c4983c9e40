// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// exposing is a sidecar that lets paths of its application through on some ports.
func exposing(destination string, port int, paths ...int) consul.Registration {
	r := sidecar(destination, port)
	r.Proxy.ExposedPorts = paths
	return r
}

// pathsText writes what a result does with exposed paths, and what is found of ports.
func pathsOf(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "open %s\npaths %s from %s\n", r.Rules.Open, r.Rules.Paths, strings.Join(prefixTexts(r.Rules.PathsFrom), " "))
	for i := range r.Openings {
		if o := &r.Openings[i]; o.IsPath() {
			fmt.Fprintf(&b, "%d %s by %s\n", o.Port, openingText(*o), strings.Join(o.IDs, ","))
		}
	}
	for _, f := range r.Findings {
		if slices.Contains([]catalog.ID{catalog.PortNotOpened, catalog.DuplicatePort, catalog.SquattedPort}, f.ID) {
			fmt.Fprintf(&b, "%s: %s\n", f.ID, f.Message)
		}
	}
	return b.String()
}

func TestExposedPaths(t *testing.T) {
	some := func(in *Input) { in.Policy.ExposedPathsFrom = prefixes("10.0.0.0/8") }
	eachInput(t, base, pathsOf, []inputCase{
		{"for nobody, in the range", func(in *Input) {
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21200")
		}, "open 21000\npaths none from \n"},
		{"for some, in the range", func(in *Input) {
			some(in)
			metrics := exposing("web", 21000, 21200)
			metrics.Proxy.MetricsPorts = []int{21201, 21200}
			in.Registrations = []consul.Registration{app("web", 8080), metrics}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21200")
		}, "open 21000\npaths 21200-21201 from 10.0.0.0/8\n21200 web, exposed path, from 10.0.0.0/8 by web-sidecar-proxy\n" +
			"21201 web, metrics, from 10.0.0.0/8 by web-sidecar-proxy\n"},
		{"outside the range", func(in *Input) {
			some(in)
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21500)}
		}, "open 21000\npaths none from 10.0.0.0/8\n" +
			"port-not-opened: port 21500 of web-sidecar-proxy stays as the host's own firewall has it: it is an exposed path outside the sidecar range 21000-21255 and not in extra_ports\n"},
		{"on extra_ports and guarded", func(in *Input) {
			some(in)
			in.Policy.ExtraPorts, in.Policy.GuardPorts = firewall.Ports(21500), firewall.Ports(21500)
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21500)}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21500")
		}, "open 21000\npaths 21500 from 10.0.0.0/8\n21500 web, exposed path, from 10.0.0.0/8 by web-sidecar-proxy\n"},
		{"on extra_ports and not guarded", func(in *Input) {
			some(in)
			in.Policy.ExtraPorts = firewall.Ports(21500)
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21500)}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21500")
		}, "open 21000\npaths 21500 from 10.0.0.0/8\n21500 web, exposed path, from 10.0.0.0/8 by web-sidecar-proxy\n" +
			"port-not-opened: port 21500 of web-sidecar-proxy stays as the host's own firewall has it: it is an exposed path, and exposed_paths_from keeps nobody out, because the port is not guarded\n"},
		{"for nobody, where everybody reaches it", func(in *Input) {
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21500)}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21500")
		}, "open 21000\npaths none from \n" +
			"port-not-opened: port 21500 of web-sidecar-proxy stays as the host's own firewall has it: it is an exposed path that the network reaches without mTLS and without intentions, and the port is not guarded\n"},
		{"on loopback, or not there", func(in *Input) {
			r := exposing("web", 21000, 21500)
			r.Proxy.MetricsPorts = []int{9102}
			in.Registrations = []consul.Registration{app("web", 8080), r}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp 127.0.0.1:9102")
		}, "open 21000\npaths none from \n"},
		{"protected, and no ports", func(in *Input) {
			some(in)
			in.Policy.ExtraPorts = firewall.Ports(22, 8500)
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 22, 0, -1, 65536+21200)}
		}, "open 21000\npaths none from 10.0.0.0/8\n" +
			"port-not-opened: port 22 of web-sidecar-proxy stays as the host's own firewall has it: it is an exposed path on a protected port\n"},
		{"of nobody's sidecar", func(in *Input) {
			some(in)
			stray := exposing("web", 21000, 21200)
			stray.Proxy.DestinationName = ""
			gateway := consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Proxy: &consul.Proxy{MetricsPorts: []int{21201}}}
			in.Registrations, in.Listeners = []consul.Registration{stray, gateway}, nil
		}, "open none\npaths none from 10.0.0.0/8\n" +
			"port-not-opened: port 21000 of web-sidecar-proxy stays as the host's own firewall has it: it is a sidecar that names no destination service\n"},
		{"on another's sidecar port", func(in *Input) {
			some(in)
			in.Registrations = []consul.Registration{app("api", 9090), sidecar("api", 21001), app("web", 8080), exposing("web", 21000, 21001)}
		}, "open 21000-21001\npaths none from 10.0.0.0/8\n" +
			"duplicate-port: port 21001 is registered by api-sidecar-proxy and web-sidecar-proxy: at most one of them can be listening there\n"},
		{"two on one port", func(in *Input) {
			some(in)
			in.Registrations = []consul.Registration{app("api", 9090), exposing("api", 21001, 21200), app("web", 8080), exposing("web", 21000, 21200)}
		}, "open 21000-21001\npaths 21200 from 10.0.0.0/8\n21200 api and web, exposed path, from 10.0.0.0/8 by api-sidecar-proxy,web-sidecar-proxy\n" +
			"duplicate-port: port 21200 is registered by api-sidecar-proxy and web-sidecar-proxy: at most one of them can be listening there\n"},
		{"held", func(in *Input) {
			some(in)
			in.Registrations = []consul.Registration{app("web", 8080), sidecar("web", 21000)}
			in.Held = []Held{{ID: "web-sidecar-proxy", Port: 21200, Path: true}, {ID: "old", Port: 21007}, {Port: 21007, Path: true}, {Port: 9999, Path: true}}
		}, "open 21000, 21007\npaths 21200 from 10.0.0.0/8\n" +
			"21200 web-sidecar-proxy, exposed path, from 10.0.0.0/8 (no longer registered, closes after close_delay) by web-sidecar-proxy\n"},
		{"held, and now for nobody", func(in *Input) {
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}
			in.Held = []Held{{ID: "web-sidecar-proxy", Port: 21200, Path: true}}
		}, "open 21000\npaths none from \n"},
		{"for members, of whom none is known", func(in *Input) {
			in.Policy.ExposedPathsCluster = true
			in.Members = []netip.Addr{netip.MustParseAddr("10.1.0.1")} // of the other list
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}
		}, "open 21000\npaths none from \n"},
		{"for members", func(in *Input) {
			in.Policy.ExposedPathsCluster, in.Policy.ExposedPathsFrom = true, prefixes("10.0.0.0/8 192.0.2.1/32")
			in.PathMembers = []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")}
			in.Networks.Bridged = prefixes("172.17.0.0/16")
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}
		}, "open 21000\npaths 21200 from 10.0.0.0/8 192.0.2.1/32 fd00::1/128\n" +
			"21200 web, exposed path, from cluster, 10.0.0.0/8, 192.0.2.1/32 by web-sidecar-proxy\n"},
		{"checks alone open nothing", func(in *Input) {
			some(in)
			r := sidecar("web", 21000)
			r.Proxy.ExposesChecks = true
			in.Agent.ExposeMin, in.Agent.ExposeMax = 21100, 21110
			in.Registrations = []consul.Registration{app("web", 8080), r}
			in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21100")
		}, "open 21000\npaths none from 10.0.0.0/8\n"},
		{"in quarantine", func(in *Input) {
			some(in)
			in.Policy.ExtraPorts = firewall.Ports(8080)
			in.Policy.Quarantine = &Quarantine{Ports: firewall.Ports(8080), Findings: []catalog.ID{catalog.ExposedListener}}
			in.Policy.GuardPorts = firewall.Ports(8080)
			in.Policy.Mode = ModeGuard
			in.Policy.Quarantine.Services = []string{"web"}
			in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 8080)}
			in.Listeners = listeners("tcp [::]:8080", "tcp [::]:21000", "tcp 127.0.0.1:8500 uid=0")
		}, "open 21000\npaths none from 10.0.0.0/8\n"},
	})
}

// TestPathsAreHeld: an exposed path opens at once, closes close_delay after its registration has gone, survives a restart,
// and is gone at once where the operator lets nobody in any more.
func TestPathsAreHeld(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.Policy.ExposedPathsFrom = prefixes("10.0.0.0/8")
	state := func() string {
		return fmt.Sprintf("open %s paths %s from %v", h.rules.Open, h.rules.Paths, h.rules.PathsFrom)
	}
	with, without := []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}, []consul.Registration{app("web", 8080), sidecar("web", 21000)}
	h.regs = with
	h.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		want(t, "registered", "open 21000 paths 21200 from [10.0.0.0/8]", state())
		h.regs = without
		pass(parts.CloseDelay - 5*time.Second)
		want(t, "gone for less than close_delay", "open 21000 paths 21200 from [10.0.0.0/8]", state())
	})
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(5 * time.Second)
		want(t, "after a restart", "open 21000 paths 21200 from [10.0.0.0/8]", state())
		pass(parts.CloseDelay)
		want(t, "gone for close_delay", "open 21000 paths none from [10.0.0.0/8]", state())
		h.regs = []consul.Registration{app("web", 8080), exposing("web", 21000, 21000, 21200), sidecar("api", 21200)}
		pass(2 * time.Second)
		want(t, "a sidecar on its port", "open 21000, 21200 paths none from [10.0.0.0/8]", state())
		h.regs = with
		pass(2 * time.Second)
		want(t, "the sidecar has gone a moment ago", "open 21000, 21200 paths none from [10.0.0.0/8]", state())
		pass(parts.CloseDelay + 2*time.Second)
		want(t, "the sidecar has gone", "open 21000 paths 21200 from [10.0.0.0/8]", state())
		if text := checkOf(h.report, "firewall").Output; !strings.Contains(text, "\n21200  web, exposed path, from 10.0.0.0/8") {
			t.Errorf("the check says\n%s", text)
		}
		nobody := parts
		nobody.Policy.ExposedPathsFrom = nil
		reload <- nobody
		pass(0)
		want(t, "for nobody any more", "open 21000 paths none from []", state())
		if text := checkOf(h.report, "service:web").Output; !strings.Contains(text, "port 21000, open\n  exposed paths 21200, not opened") {
			t.Errorf("the check says\n%s", text)
		}
	})
}

// TestPathMembers: members are asked for once for both lists, and who an earlier run let in to one list is not let in to the other.
func TestPathMembers(t *testing.T) {
	c := newCluster()
	c.regs = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200)}
	parts := c.parts(ModeGuard)
	parts.Policy.AllowCluster, parts.Policy.AllowBridges = false, false
	parts.Policy.ExposedPathsCluster = true
	c.members = membersOf(t, "10.1.0.1 10.1.0.2")
	c.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		want(t, "members of one list", "21200 [10.1.0.1/32 10.1.0.2/32] []", fmt.Sprint(c.rules.Paths, c.rules.PathsFrom, c.rules.AllowFrom))
	})
	parts.Policy.AllowFrom, parts.Policy.AllowCluster = prefixes("10.9.0.9/32"), true
	c.members = membersOf(t, "10.1.0.1 10.1.0.3")
	c.rules.AllowFrom, c.asks = prefixes("10.9.0.8/32"), 0
	c.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		if c.asks != 1 {
			t.Errorf("asked %d times for two lists", c.asks)
		}
		want(t, "both lists", "[10.1.0.1/32 10.1.0.2/32 10.1.0.3/32] [10.1.0.1/32 10.1.0.3/32 10.9.0.8/32 10.9.0.9/32]",
			fmt.Sprint(c.rules.PathsFrom, withoutOwn(c.rules.AllowFrom, c.networks.Addresses)))
	})
}

// withoutOwn leaves out the host's own addresses.
func withoutOwn(sources []netip.Prefix, own []netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(sources), func(p netip.Prefix) bool { return p.IsSingleIP() && slices.Contains(own, p.Addr()) })
}

func TestPlanOfPaths(t *testing.T) {
	in := base()
	in.Policy.ExposedPathsFrom = prefixes("10.0.0.0/8")
	in.Registrations = []consul.Registration{app("web", 8080), exposing("web", 21000, 21200, 21201)}
	in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp [::]:21200", "tcp [::]:21201", "tcp [::]:21202")
	res := Evaluate(in)
	all := DefaultSidecarRange().Ports()
	now := standing{guard: all, open: firewall.Ports(21000), paths: firewall.Ports(21200, 21205), pathSources: prefixes("10.0.0.0/8")}
	now.enforced = all.Minus(now.open).Minus(now.paths)
	plan := planOf(&res, in.Listeners, nil, now)
	got := fmt.Sprintf("later %s, closes %s, releases %s, paths %s, cuts %d", plan.Later, plan.Closes, plan.Releases, plan.rules.Paths, len(plan.Cuts))
	want(t, "a path comes, one goes", "later 21205, closes none, releases none, paths 21200-21201, 21205, cuts 0", got)
	if len(plan.Opens) != 1 || plan.Opens[0].Port != 21201 || len(plan.Keeps) != 2 {
		t.Errorf("opens %v, keeps %v", plan.Opens, plan.Keeps)
	}
	plan = planOf(&res, in.Listeners, nil, standing{})
	var cuts []string
	for _, c := range plan.Cuts {
		cuts = append(cuts, fmt.Sprintf("%d %t %t", c.Port, c.Outside, c.Path))
	}
	want(t, "nothing stands", "[21200 true true 21201 true true 21202 false false]", fmt.Sprint(cuts))
}

func TestSavedPaths(t *testing.T) {
	s := sampleState()
	if strings.Contains(string(mustEncode(t, s)), "paths") || !strings.HasPrefix(string(mustEncode(t, s)), `{"version":1,`) {
		t.Errorf("without paths: %s", mustEncode(t, s))
	}
	s.Paths, s.PathSources, s.PathsFrom, s.PathsCluster = firewall.Ports(21200, 9443), prefixes("10.0.0.0/8 192.0.2.7/32"), prefixes("10.0.0.0/8"), true
	data := mustEncode(t, s)
	read, err := decodeState(data)
	if err != nil || !read.equal(s) || !strings.HasPrefix(string(data), `{"version":2,`) {
		t.Fatalf("%v, %+v\n%s", err, read, data)
	}
	if _, err := decodeState([]byte(strings.Replace(string(data), `{"version":2,`, `{"version":1,`, 1))); err == nil {
		t.Error("a state of version 1 has paths")
	}
	for _, tt := range []struct {
		policy Policy
		want   string
	}{
		{Policy{}, "none []"},
		{Policy{ExposedPathsFrom: prefixes("10.0.0.0/8")}, "21200 [10.0.0.0/8]"},
		{Policy{ExposedPathsFrom: prefixes("10.2.0.0/16 172.16.0.0/12")}, "21200 [10.2.0.0/16]"},
		{Policy{ExposedPathsCluster: true}, "21200 [192.0.2.7/32]"},
		{Policy{ExposedPathsCluster: true, ExposedPathsFrom: prefixes("0.0.0.0/0"), ExtraPorts: firewall.Ports(9443)}, "9443, 21200 [10.0.0.0/8 192.0.2.7/32]"},
		{Policy{ExposedPathsFrom: prefixes("172.16.0.0/12")}, "none []"},
		{Policy{ExposedPathsFrom: prefixes("10.0.0.0/8"), Protected: firewall.Ports(21200)}, "none [10.0.0.0/8]"},
	} {
		rules, _ := s.rules(Input{Policy: tt.policy})
		want(t, fmt.Sprintf("%+v", tt.policy), tt.want, fmt.Sprint(rules.Paths, " ", rules.PathsFrom))
	}
}

// What a check says of exposed paths fits 80 columns, however many they are.
func TestPathsTextIsNarrow(t *testing.T) {
	var paths []SidecarPath
	for port := uint16(21000); port < 21064; port += 2 {
		paths = append(paths, SidecarPath{Port: port, Opened: port%4 == 0})
	}
	for _, mode := range []Mode{ModeGuard, ModeObserve} {
		text := pathsText(paths, mode)
		for line := range strings.Lines(text) {
			if columns := len([]rune(strings.TrimSuffix(line, "\n"))); columns >= 80 {
				t.Errorf("%s: %d columns: %s", mode, columns, line)
			}
		}
		if strings.Count(text, "\n") != 2 {
			t.Errorf("%s:%s", mode, text)
		}
	}
}
