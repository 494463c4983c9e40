// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// source yields values from fuzzed bytes, zeros when they run out.
type source struct{ data []byte }

func (s *source) number() int {
	var b [4]byte
	n := copy(b[:], s.data)
	s.data = s.data[n:]
	return int(int32(binary.LittleEndian.Uint32(b[:])))
}

func (s *source) flag() bool { return s.number()&1 == 1 }

// port is mostly one that matters: at the edges of ranges, protected, or wrapping into the range.
func (s *source) port() int {
	edges := []int{0, 22, 443, 8080, 8080, 8500, 20999, 21000, 21001, 21255, 21256, 65535, 65536, 65536 + 21000, -1, 70000, 2222, 9443}
	n := s.number()
	if n&1 == 0 {
		return edges[int(uint32(n)>>1)%len(edges)]
	}
	return n >> 1
}

func (s *source) text() string {
	names := []string{"web", "", "-x", "a\x1b[31m\n", "gw", "hostagent", "api", "\xff"}
	return names[int(uint32(s.number()))%len(names)]
}

func (s *source) registration() consul.Registration {
	kinds := []string{"", consul.KindConnectProxy, consul.KindMeshGateway, consul.KindAPIGateway, "anything"}
	r := consul.Registration{
		ID: s.text(), Name: s.text(), Kind: kinds[int(uint32(s.number()))%len(kinds)],
		Address: s.text(), Port: s.port(), Native: s.flag(),
	}
	if s.flag() {
		r.Proxy = &consul.Proxy{
			DestinationName: s.text(), DestinationID: s.text(), LocalServicePort: s.port(), BindPort: s.port(),
			LocalServiceAddress: []string{"", "127.0.0.1", "0.0.0.0", "::", "rubbish"}[int(uint32(s.number()))%5],
			Upstreams:           []consul.Upstream{{Name: s.text(), Address: []string{"", "0.0.0.0", "rubbish"}[uint32(s.number())%3], Port: s.port()}},
			Mode:                []string{"", consul.ModeTransparent}[uint32(s.number())%2], OutboundPort: s.port(),
			ExposedPorts: []int{s.port()}, MetricsPorts: []int{s.port()}, ExposesChecks: s.flag(),
			BindsTagged: s.flag(), Binds: []consul.Bind{{Address: "0.0.0.0", Port: s.port()}, {Address: s.text(), Port: s.port()}},
		}
		r.Tagged = []consul.Bind{{Name: "wan", Address: r.Address, Port: s.port()}}
	}
	return r
}

func (s *source) listener() sockets.Listener {
	addrs := []string{"0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1", "10.0.0.1", "fe80::1"}
	l := sockets.Listener{
		Protocol: sockets.TCP, UID: uint32(s.number()) % 3, Cookie: uint64(uint32(s.number()) % 16),
		Addr: netip.AddrPortFrom(netip.MustParseAddr(addrs[int(uint32(s.number()))%len(addrs)]), uint16(s.port())),
	}
	if s.flag() {
		l.Protocol = sockets.UDP
	}
	l.CgroupID = uint64(uint32(s.number()) % 4)
	return l
}

// owner is that of any program but sshd.
func (s *source) owner() sockets.Owner {
	p := sockets.Process{PID: int32(2 + uint32(s.number())%3), Name: []string{"web", "envoy", "consul", "docker-proxy", "\x1b"}[uint32(s.number())%5]}
	return sockets.Owner{
		Unit:      []string{"", "web.service", "docker.service", "session-1.scope"}[uint32(s.number())%4],
		Container: []string{"", "ab12"}[uint32(s.number())%2], Processes: []sockets.Process{p},
	}
}

func (s *source) set() firewall.PortSet {
	var set firewall.PortSet
	for range uint32(s.number()) % 4 {
		set.Add(uint16(s.port()))
	}
	return set
}

func (s *source) input() Input {
	in := Input{
		Agent: consul.Agent{
			RangeKnown: s.flag(), SidecarMin: s.port(), SidecarMax: s.port(),
			Ports: map[string]uint16{"http": uint16(s.port())},
		},
		PreviousRange: DefaultSidecarRange(),
		Settled:       s.flag(), AdoptedGuard: s.set(), Leaving: s.set(), Enforced: s.set(), WasOpen: s.set(),
		Policy: Policy{
			ExtraPorts: s.set(), GuardPorts: s.set(), Protected: s.set(),
			Gateways: []string{s.text()}, Native: []string{s.text()}, AllServices: s.flag(), OwnService: "hostagent",
		},
	}
	if s.flag() {
		in.Policy.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		in.Policy.ExposedPathsFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}
	in.Policy.AllowCluster, in.Policy.AllowBridges = s.flag(), s.flag()
	for range uint32(s.number()) % 4 {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(s.number()))
		addr := netip.AddrFrom4(b)
		in.Members = append(in.Members, addr)
		in.Networks.Addresses = append(in.Networks.Addresses, addr.Next())
		in.Networks.Bridged = append(in.Networks.Bridged, netip.PrefixFrom(addr, int(b[0])%33).Masked())
	}
	if s.flag() {
		in.PreviousRange = PortRange{First: 30000, Last: 30010}
	}
	if s.flag() {
		in.Policy.Quarantine = &Quarantine{Ports: s.set(), Findings: []catalog.ID{catalog.ExposedListener}}
		if s.flag() {
			in.Policy.Quarantine.Findings = append(in.Policy.Quarantine.Findings, catalog.ExposedSibling, catalog.ExposedUpstream, catalog.ExposedAdmin)
		}
		if s.flag() {
			in.Policy.Quarantine.Services = []string{s.text()}
		}
	}
	in.Policy.CutOnClose = s.flag()
	held := s.set()
	for port := range held.All() {
		in.Quarantined = append(in.Quarantined, Quarantined{Port: port, Held: true})
	}
	if s.flag() {
		in.Host = &Host{Published: []firewall.Published{{First: 8080, Last: uint16(s.port()), To: s.text()}}}
		in.Host.Redirects, in.Host.RedirectsKnown = []firewall.Redirect{{Family: firewall.IPv4, To: uint16(s.port()), Ports: s.set()}}, s.flag()
	}
	in.Policy.Protected.Add(22)
	for range uint32(s.number()) % 8 {
		in.Registrations = append(in.Registrations, s.registration())
		in.Held = append(in.Held, Held{ID: s.text(), Port: uint16(s.port())})
	}
	for range uint32(s.number()) % 8 {
		in.Listeners = append(in.Listeners, s.listener())
	}
	if s.flag() {
		in.Owners = map[uint64]sockets.Owner{uint64(uint32(s.number()) % 16): {Processes: []sockets.Process{{PID: 1, Name: "sshd"}}}}
	}
	for range uint32(s.number()) % 4 {
		entries := catalog.Entries()
		x := Exemption{Finding: entries[int(uint32(s.number()))%len(entries)].ID, Service: s.text(), Port: uint16(s.port()), Reason: s.text()}
		if s.flag() {
			x.Expires = time.Unix(0, 0).UTC()
		}
		if s.flag() {
			x.Finding = catalog.ExposedListener
		}
		in.Policy.Exemptions = append(in.Policy.Exemptions, x)
	}
	if s.flag() {
		in.Today = time.Unix(86400, 0).UTC()
	}
	for range uint32(s.number()) % 8 {
		if in.Owners == nil {
			in.Owners = map[uint64]sockets.Owner{}
		}
		if cookie := uint64(uint32(s.number()) % 16); len(in.Owners[cookie].Processes) == 0 {
			in.Owners[cookie] = s.owner()
		}
	}
	for id := range uint64(uint32(s.number()) % 4) {
		in.Namespaces = append(in.Namespaces, sockets.Namespace{ID: id + 1, Name: s.text(), Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}})
		l := s.listener()
		l.Namespace = id + 1
		in.Elsewhere = append(in.Elsewhere, l)
	}
	if in.Host != nil && s.flag() {
		port := uint16(s.port())
		in.Host.Published = append(in.Host.Published, firewall.Published{First: port, Last: port, To: "172.17.0.2:8080"})
	}
	return in
}

// FuzzEvaluate: no input ever puts a protected or unlisted port into a set.
func FuzzEvaluate(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x00\x00\x00a longer seed that fills a few registrations and listeners with whatever its letters say"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{data: data}
		in := s.input()
		res := Evaluate(in)
		if without := suspects(in); !slices.Equal(without, res.Suspects) {
			t.Errorf("without sentences the suspects are %v, with them %v", without, res.Suspects)
		}

		protected := in.Policy.Protected
		protected.Add(0)
		for _, p := range in.Agent.Ports {
			protected.Add(p)
		}
		for _, l := range in.Listeners {
			owner, known := in.Owners[l.Cookie]
			if known && l.UID == 0 && l.Protocol == sockets.TCP && owner.Processes[0].Name == "sshd" {
				protected.Add(l.Addr.Port())
			}
		}
		sidecars := legitimateRange(in, protected)
		must := func(what string, set, outside firewall.PortSet) {
			if wrong := set.Minus(outside); wrong.Len() > 0 {
				t.Errorf("%s holds %s\n%+v", what, wrong, in)
			}
		}
		leaving := in.Leaving.Union(in.PreviousRange.Ports().Intersect(in.WasOpen))
		must("open, beside range, extra_ports and the range before,", res.Rules.Open, sidecars.Union(in.Policy.ExtraPorts).Union(leaving).Minus(protected))
		must("exposed paths, beside range and extra_ports,", res.Rules.Paths, sidecars.Union(in.Policy.ExtraPorts).Minus(protected).Minus(res.Rules.Open))
		must("exposed paths that are cut,", res.Rules.Paths.Intersect(res.Rules.Cut), firewall.PortSet{})
		if !in.Policy.exposes() && (res.Rules.Paths.Len() > 0 || len(res.Rules.PathsFrom) > 0) {
			t.Errorf("exposed paths %s for %v, and the operator lets in nobody", res.Rules.Paths, res.Rules.PathsFrom)
		}
		var mayQuarantine, exposed, quarantined firewall.PortSet
		if in.Policy.Quarantine != nil {
			mayQuarantine = in.Policy.Quarantine.Ports.Minus(protected).Minus(sidecars).Minus(res.Rules.Open)
		}
		for _, l := range in.Listeners {
			if l.Protocol == sockets.TCP && l.Exposed() {
				exposed.Add(l.Addr.Port())
			}
		}
		if in.Host != nil { // what nat rules pass on needs no listener
			exposed = exposed.Union(publishedPorts(in.Host.Published))
		}
		for _, q := range res.Quarantined {
			quarantined.Add(q.Port)
		}
		must("quarantine, beside quarantine_ports,", quarantined, mayQuarantine)
		must("quarantine, beside exposed ports,", quarantined, exposed)
		checkAround(t, &in, &res)
		must("quarantine that is not guarded,", quarantined, res.Rules.Guard)
		must("quarantine that is not cut,", quarantined, res.Rules.Cut)
		must("guard, beside range, guard_ports and quarantine,", res.Rules.Guard,
			sidecars.Union(in.Policy.GuardPorts).Union(quarantined).Minus(protected))
		for _, f := range res.Findings {
			if f.State != Exempt {
				continue
			}
			x := f.Exemption
			if x == nil || x.Finding != f.ID || x.Service != "" && x.Service != f.Service || x.Port != 0 && x.Port != f.Port ||
				f.Severity != catalog.Info || x.Ended(in.Today) {
				t.Errorf("exempt by %v: %+v", x, f)
			}
			if f.ID == catalog.ExposedListener && quarantined.Has(f.Port) {
				t.Errorf("exempt, and in quarantine: %+v", f)
			}
		}
		if !in.Settled {
			must("guard, before the answers have settled,", res.Rules.Guard, in.AdoptedGuard)
		}
		// Whatever the judgement behind it were to ask for, the gate holds.
		asked := s.set().Union(res.Rules.Open)
		gate := ruleset(in, res.Range, protectedPorts(in), s.set(), asked)
		listed := firewall.PortSet{}
		if in.Policy.Quarantine != nil {
			listed = asked.Intersect(in.Policy.Quarantine.Ports)
		}
		must("the gate's guard", gate.Guard, sidecars.Union(in.Policy.GuardPorts).Union(listed).Minus(protected))
		if in.Policy.CutOnClose {
			listed = listed.Union(in.WasOpen)
		}
		must("the gate's cut", gate.Cut, listed.Intersect(gate.Guard).Minus(gate.Open))

		claimed := firewall.PortSet{}
		paths := firewall.PortSet{}
		note := func(h Held) {
			if h.Path {
				paths.Add(h.Port)
			} else {
				claimed.Add(h.Port)
			}
		}
		for claim := range in.Policy.claims(in.Registrations) {
			note(claim)
		}
		for _, h := range in.Held {
			note(h)
		}
		must("exposed paths, beside what anybody claims,", res.Rules.Paths, paths)
		must("open, beside what anybody claims,", res.Rules.Open, claimed)
		allowed := res.Rules.AllowFrom
		if (len(allowed) > 0) != in.Policy.limits() {
			t.Errorf("the operator says who may connect: %t; the rules let in %v", in.Policy.limits(), allowed)
		}
		wanted := slices.Clone(in.Policy.AllowFrom)
		for _, addr := range append(slices.Clone(in.Members), in.Networks.Addresses...) {
			wanted = append(wanted, netip.PrefixFrom(addr, addr.BitLen()))
		}
		wanted = append(wanted, in.Networks.Bridged...)
		for _, p := range allowed {
			if !slices.Contains(wanted, p) && !p.Addr().IsLoopback() {
				t.Errorf("the rules let in %v, who is none of %v", p, wanted)
			}
		}
		for _, p := range in.Policy.AllowFrom {
			if !admits(allowed, p) {
				t.Errorf("the operator lets in %v, the rules %v", p, allowed)
			}
		}
		mayCut := quarantined
		if in.Policy.CutOnClose {
			mayCut = mayCut.Union(in.WasOpen.Intersect(res.Rules.Guard))
		}
		must("cut, beside quarantine and what was open,", res.Rules.Cut, mayCut.Minus(res.Rules.Open))
		if res.Rules.CutRules != (in.Policy.CutOnClose || in.Policy.Quarantine != nil) {
			t.Errorf("the cut rules stand: %v", res.Rules.CutRules)
		}
	})
}

// checkAround: ways around the mesh are seen, each once, of TCP that the network reaches, and no text of theirs drives a
// terminal.
func checkAround(t *testing.T, in *Input, res *Result) {
	sidecars := map[*sockets.Listener]catalog.ID{}
	for i := range res.Findings {
		f := &res.Findings[i]
		if strings.ContainsFunc(f.Message+f.Remedy, unicode.IsControl) {
			t.Errorf("%s says %q; %q", f.ID, f.Message, f.Remedy)
		}
		if !isAroundTheMesh(f.ID) {
			continue
		}
		if f.Listener == nil { // what nat rules pass on to another network namespace has no socket here
			if f.Behind == nil {
				t.Errorf("%s of neither a listener nor a published port: %+v", f.ID, f)
			}
			continue
		}
		if f.Listener.Protocol != sockets.TCP || !f.Listener.Exposed() {
			t.Errorf("%s of %s", f.ID, address(f.Listener))
		}
		if f.ID == catalog.ExposedListener {
			continue
		}
		if before := sidecars[f.Listener]; before != "" {
			t.Errorf("%s and %s of one listener", before, f.ID)
		}
		sidecars[f.Listener] = f.ID
		if f.State == Mitigated && !in.Enforced.Has(f.Port) && (in.Host == nil || !in.Host.Redirects[0].Ports.Has(f.Port)) {
			t.Errorf("%s of port %d is called safe", f.ID, f.Port)
		}
	}
	for _, f := range res.Findings {
		if f.ID == catalog.SquattedPort && sidecars[f.Listener] != "" {
			t.Errorf("%s and %s of one listener", f.ID, sidecars[f.Listener])
		}
	}
}

// legitimateRange says in other words than Evaluate which ports a sidecar range may have.
func legitimateRange(in Input, protected firewall.PortSet) firewall.PortSet {
	lo, hi := in.Agent.SidecarMin, in.Agent.SidecarMax
	if in.Agent.RangeKnown && lo <= 0 && hi <= 0 {
		return firewall.PortSet{}
	}
	var reported firewall.PortSet
	if in.Agent.RangeKnown && lo >= 1 && hi <= 65535 && lo <= hi && hi-lo < 4096 {
		for p := lo; p <= hi; p++ {
			reported.Add(uint16(p))
		}
		if reported.Intersect(protected) == (firewall.PortSet{}) {
			return reported
		}
	}
	return in.PreviousRange.Ports()
}
