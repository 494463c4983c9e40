// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// sequence is a host whose registrations, range, policy and agent change by chance, and what it must hold to.
type sequence struct {
	*fakeHost
	t      *testing.T
	random *rand.Rand
	parts  Parts

	claimed map[uint16]time.Time // when an answer last claimed a port for the mesh
	may     map[uint16]time.Time // when the policy or the range last let a port open
	ever    map[uint16]bool      // that an answer ever claimed
	paths   map[uint16]bool      // that were ever exposed
	told    consul.Agent         // what the agent last told of itself
	failed  time.Time            // when an answer last did not count
	story   []string
}

func (s *sequence) Services(ctx context.Context) (consul.Answer, error) {
	answer, err := s.fakeHost.Services(ctx)
	if err != nil {
		s.failed = time.Now()
		return answer, err
	}
	policy := s.parts.Policy
	policy.ExposedPathsCluster = true // it may come to be so
	for claim := range policy.claims(s.regs) {
		if claim.Path {
			s.paths[claim.Port] = true
		} else {
			s.ever[claim.Port] = true
			if s.told.RangeKnown { // else the answer may not count
				s.claimed[claim.Port] = time.Now()
			}
		}
	}
	return answer, nil
}

func (s *sequence) Agent(ctx context.Context) (consul.Agent, error) {
	facts, err := s.fakeHost.Agent(ctx)
	if err == nil {
		if s.told.SidecarMin != facts.SidecarMin {
			s.tell("(told of the range at %d)", facts.SidecarMin)
		}
		s.told = facts
		s.note()
	}
	return facts, err
}

// allowed are the ports that range and policy let open now, but for protected ones.
func (s *sequence) allowed() firewall.PortSet {
	return PortRange{uint16(s.told.SidecarMin), uint16(s.told.SidecarMax)}.Ports().Union(s.parts.Policy.ExtraPorts)
}

func (s *sequence) Apply(ctx context.Context, want firewall.Ruleset) (firewall.Changes, error) {
	changes, err := s.fakeHost.Apply(ctx, want)
	if err == nil {
		s.judge()
	}
	return changes, err
}

// note notes which ports may open now.
func (s *sequence) note() {
	allowed := s.allowed()
	for port := range allowed.All() {
		s.may[port] = time.Now()
	}
}

// judge compares what the kernel was made to hold with what was said so far.
func (s *sequence) judge() {
	now, r := time.Now(), s.rules
	protected := s.parts.Policy.Protected.Union(firewall.Ports(8500, 8502, 8300))
	wrong := func(what string, ports firewall.PortSet) {
		if ports.Len() > 0 && !s.t.Failed() {
			s.t.Errorf("%s: %s, at %s with %s\n%s", what, ports, now.Format("04:05.000"), s.state(), strings.Join(s.story[max(len(s.story)-24, 0):], "\n"))
		}
	}
	wrong("protected, and in a set", r.Open.Union(r.Guard).Union(r.Paths).Union(r.Cut).Intersect(protected))
	wrong("open and exposed", r.Open.Intersect(r.Paths))
	wrong("open or exposed, and cut", r.Cut.Intersect(r.Open.Union(r.Paths)))
	wrong("cut, and not guarded", r.Cut.Minus(r.Guard))
	if len(r.PathsFrom) == 0 || !s.parts.Policy.exposes() {
		wrong("exposed to nobody", r.Paths)
	}
	s.note()
	allowed := s.allowed()
	mostDelay := s.parts.CloseDelay + 3*s.parts.PollInterval // while the agent does not fail
	for port := range r.Open.All() {
		if since, once := s.may[port]; !once || now.Sub(since) > mostDelay && now.Sub(s.failed) > 2*mostDelay {
			wrong("open, and outside of range and extra_ports for long", firewall.Ports(port))
		}
		if !s.ever[port] {
			wrong("open, and nobody has ever asked for it", firewall.Ports(port))
		}
	}
	for port := range r.Paths.All() {
		if !allowed.Has(port) || !s.paths[port] {
			wrong("exposed, and may not be or was never asked for", firewall.Ports(port))
		}
	}
	for port, at := range s.claimed {
		if now.Sub(at) < s.parts.CloseDelay && allowed.Has(port) && !protected.Has(port) && !r.Open.Has(port) {
			wrong("asked for lately, and not open", firewall.Ports(port))
		}
	}
}

// port is one that matters.
func (s *sequence) port() int {
	ports := []int{22, 443, 8300, 8500, 20999, 21000, 21001, 21002, 21003, 21255, 30000, 30001, 30002, 30003, 9443, 9090, 0, -1, 65535 + 21001, 70000}
	return ports[s.random.IntN(len(ports))]
}

func (s *sequence) registration(id string) consul.Registration {
	r := consul.Registration{
		ID: id, Name: id, Kind: []string{consul.KindConnectProxy, consul.KindConnectProxy, consul.KindMeshGateway, "", "connect_proxy"}[s.random.IntN(5)],
		Port: s.port(), Native: s.random.IntN(4) == 0,
		Proxy: &consul.Proxy{DestinationName: "web"},
	}
	if s.random.IntN(3) == 0 {
		r.Proxy.BindPort = s.port()
	}
	if s.random.IntN(2) == 0 {
		r.Proxy.ExposedPorts, r.Proxy.MetricsPorts = []int{s.port(), s.port()}, []int{s.port()}
	}
	if s.random.IntN(3) == 0 {
		r.Proxy.Binds, r.Proxy.BindsTagged = []consul.Bind{{Address: "0.0.0.0", Port: s.port()}}, true
		r.Tagged = []consul.Bind{{Name: "wan", Address: "", Port: s.port()}}
	}
	return r
}

// event changes something.
func (s *sequence) event(reload chan<- Parts) {
	s.t.Helper()
	ids := []string{"a", "b", "c", "d/e", "g"}
	switch s.random.IntN(12) {
	case 0, 1, 2, 3, 4:
		id := ids[s.random.IntN(len(ids))]
		s.regs = slices.DeleteFunc(slices.Clone(s.regs), func(r consul.Registration) bool { return r.ID == id })
		if s.random.IntN(3) > 0 {
			s.regs = append(s.regs, s.registration(id))
		}
		slices.SortFunc(s.regs, func(a, b consul.Registration) int { return strings.Compare(a.ID, b.ID) })
		s.tell("registered %s", describe(s.regs))
	case 5:
		s.regs = nil
		s.tell("nothing is registered")
	case 6, 7:
		s.fails = []error{nil, nil, &consul.Error{Kind: consul.KindFiltered, Err: errors.New("filtered")}}[s.random.IntN(3)]
		s.tell("the agent fails: %v", s.fails)
	case 8:
		s.factsFail = []error{nil, nil, &consul.Error{Kind: consul.KindTimeout, Err: errors.New("slow")}}[s.random.IntN(3)]
		s.tell("the agent is silent about itself: %v", s.factsFail)
	case 9:
		if s.factsFail != nil {
			return // nobody would know
		}
		s.facts.SidecarMin, s.facts.SidecarMax = 21000, 21255
		if s.random.IntN(2) == 0 {
			s.facts.SidecarMin, s.facts.SidecarMax = 30000, 30100
		}
		s.regs = slices.Clone(s.regs)
		s.tell("the range begins at %d", s.facts.SidecarMin)
		reload <- s.parts // it is asked at once
	case 10:
		policy := &s.parts.Policy
		policy.ExtraPorts, policy.ExposedPathsFrom, policy.CutOnClose = firewall.PortSet{}, nil, s.random.IntN(2) == 0
		if s.random.IntN(2) == 0 {
			policy.ExtraPorts = firewall.Ports(443, 22, 9443)
		}
		if s.random.IntN(3) > 0 {
			policy.ExposedPathsFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		s.tell("extra %s, paths from %v, cut %t", policy.ExtraPorts, policy.ExposedPathsFrom, policy.CutOnClose)
		reload <- s.parts
	case 11:
		s.applyFail = []error{nil, nil, errors.New("busy")}[s.random.IntN(3)]
		s.tell("the firewall fails: %v", s.applyFail)
	}
}

func (s *sequence) tell(format string, args ...any) {
	s.story = append(s.story, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func describe(regs []consul.Registration) string {
	var texts []string
	for _, r := range regs {
		if r.Proxy == nil {
			continue
		}
		texts = append(texts, fmt.Sprintf("%s %s %d bind %d exposes %v %v", r.ID, r.Kind, r.Port, r.Proxy.BindPort, r.Proxy.ExposedPorts, r.Proxy.MetricsPorts))
	}
	return strings.Join(texts, "; ")
}

// TestSequences: whatever is registered, fails and is configured, in whatever order, no port opens that may not, and none
// closes that was registered less than close_delay ago.
func TestSequences(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &sequence{
				fakeHost: newFakeHost(), t: t, random: rand.New(rand.NewPCG(seed, 1)),
				claimed: map[uint16]time.Time{}, may: map[uint16]time.Time{}, paths: map[uint16]bool{}, ever: map[uint16]bool{},
			}
			s.parts = s.fakeHost.parts(ModeGuard)
			s.parts.Registry, s.parts.Firewall = s, s
			s.parts.Policy.Gateways, s.parts.Policy.Native = []string{"g", "d/e"}, []string{"a"}
			for range 1 + s.random.IntN(3) { // hostagent starts again, and so does time
				clear(s.claimed)
				clear(s.may)
				s.told = consul.Agent{}
				for port := range s.rules.Open.All() {
					s.may[port] = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when time begins in a bubble
				}
				s.runParts(t, s.parts, func(reload chan<- Parts) {
					for range 60 {
						s.event(reload)
						pass([]time.Duration{0, 100, 1000, 1500, 5000, 31_000}[s.random.IntN(6)] * time.Millisecond)
					}
				})
			}
		})
	}
}
