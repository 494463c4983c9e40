// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// Evaluate decides what the kernel should hold and what is wrong on the host. It is a pure function: no clock, no I/O,
// the same answer for the same input, and it never changes in.
//
// A registration is a claim, never an authority: whatever Consul says, Rules.Open holds only ports of the sidecar range
// and of Policy.ExtraPorts, and for close_delay those that were open under another range; Rules.Paths holds only ports of the
// range and of Policy.ExtraPorts, Rules.Guard only ports of the range, of Policy.GuardPorts and of Policy.Quarantine.Ports, and
// neither a protected one. Rules.Cut holds only guarded ports that are not open.
//
// Result.Suspects names the sockets whose owners would make the result better; a caller that can looks them up and
// evaluates again with Input.Owners.
func Evaluate(in Input) Result { return evaluate(in, false) }

// suspects are what Evaluate would return as Result.Suspects. That takes no sentence, and they are most of the work.
func suspects(in Input) []sockets.Listener { return evaluate(in, true).Suspects }

func evaluate(in Input, wordless bool) Result {
	e := &evaluation{
		in:        in,
		wordless:  wordless,
		protected: protectedPorts(in),
		byPort:    make(map[uint16][]*sockets.Listener, len(in.Listeners)),
		first:     map[uint16]map[socketKey]*sockets.Listener{},
		shared:    map[uint16]string{},
		claims:    make(map[uint16][]claim, len(in.Registrations)/2),
		suspects:  map[uint64]sockets.Listener{},
		told:      map[*sockets.Listener]catalog.ID{},
		asks:      make(map[*consul.Registration]bool, len(in.Registrations)/2),
	}
	e.res.SSH, e.res.Devices = sshPorts(in), e.devices()
	for i := range in.Listeners {
		l := &in.Listeners[i]
		e.byPort[l.Addr.Port()] = append(e.byPort[l.Addr.Port()], l)
	}
	e.nameConsulPorts()
	e.learnAddresses()
	e.away = newAway(&in)
	e.learnRules()
	e.res.Published = e.publishedElsewhere()
	e.chooseRange()
	if in.PreviousRange != e.res.Range {
		e.in.Leaving = in.Leaving.Union(in.PreviousRange.Ports().Intersect(in.WasOpen))
	}
	e.collectClaims() // what is held counts while registrations are not known
	e.collectPaths()
	if in.Source != SourceNone {
		e.judgeClaims()
		e.judgePaths()
		e.judgeLoopbackOnly()
		e.judgeServices()
		e.judgeRange()
		e.judgeProbes()
	}
	e.judgeHost()
	e.judgeConsulAPI()
	e.judgeDrift()
	e.judgeAgent()
	e.exempt() // before quarantine, which leaves it alone
	quarantined := e.judgeQuarantine()
	e.exemptBorrowed(portsIn(quarantined))
	e.res.Rules = ruleset(e.in, e.res.Range, e.protected, e.claimed, portsIn(quarantined))
	e.letPaths(portsIn(quarantined))
	e.res.Quarantined = slices.DeleteFunc(quarantined, func(q Quarantined) bool { return !e.res.Rules.Cut.Has(q.Port) })
	e.res.Rules.AllowFrom = sourcesOf(&in)
	e.judgeBlocked()
	e.exempt()
	e.rootSuspects()
	sortFindings(e.res.Findings)
	e.res.Suspects = slices.SortedFunc(maps.Values(e.suspects), func(a, b sockets.Listener) int {
		return cmp.Or(compareListeners(&a, &b), cmp.Compare(a.Cookie, b.Cookie))
	})
	return e.res
}

type evaluation struct {
	in          Input
	wordless    bool // findings need no sentences
	res         Result
	protected   firewall.PortSet
	byPort      map[uint16][]*sockets.Listener
	first       map[uint16]map[socketKey]*sockets.Listener // of the sockets that look alike, by port, where it was asked for
	shared      map[uint16]string                          // what sharedBy answered
	claims      map[uint16][]claim                         // by port, only those that count as sidecar, gateway or native service
	asks        map[*consul.Registration]bool              // those of claims
	claimed     firewall.PortSet                           // that are to be open: keys of claims, and held ports
	pathClaims  map[uint16][]pathClaim                     // by port, of those that count
	paths       firewall.PortSet                           // that somebody asks for as exposed paths, or did: held ports
	suspects    map[uint64]sockets.Listener
	addresses   map[netip.Addr]bool // of this host; empty where they are not known
	rules       natRules
	consulNames map[uint16]string // see consulName
	published   firewall.PortSet  // ports that nat rules send elsewhere
	exposures   []exposure        // what could be quarantined
	proxied     firewall.PortSet  // on which the kernel sends the network to a transparent proxy of who is exposed
	exempted    exemptions
	reached     map[wayKey][]Way                 // what ways answered
	told        map[*sockets.Listener]catalog.ID // ways around the mesh that were found
	away        away
}

// claim is a registration that asks for a port to be open.
type claim struct {
	reg    *consul.Registration
	port   uint16
	beside bool // it is not the port that was registered: see asksBeside
}

// service names the service that a claim is for: the destination of a sidecar, otherwise itself.
func (c claim) service() string { return destination(c.reg) }

// start tells how to start what should listen.
func (c claim) start() string {
	if c.reg.Kind != consul.KindConnectProxy {
		return "start it"
	}
	// Consul's own proxy and its Envoy bootstrap want the id of the service there.
	return "start the sidecar, for example: consul connect proxy -sidecar-for " + shellWord(cmp.Or(c.reg.Proxy.DestinationID, c.service()))
}

func destination(r *consul.Registration) string {
	if r.Kind == consul.KindConnectProxy && r.Proxy != nil && r.Proxy.DestinationName != "" {
		return r.Proxy.DestinationName
	}
	return r.Name
}

// consulPorts are Consul's own default ports, protected where the agent does not tell which it uses.
func consulPorts() firewall.PortSet {
	return firewall.Ports(8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600)
}

// protectedPorts are the ports that are never in any set of ours: the operator's, Consul's own, and those on which
// root's sshd listens. A process of another user may call itself sshd as it likes.
func protectedPorts(in Input) firewall.PortSet {
	protected := in.Policy.Protected
	if len(in.Agent.Ports) == 0 {
		protected = protected.Union(consulPorts())
	}
	for _, port := range in.Agent.Ports {
		protected.Add(port)
	}
	protected.Add(0)
	return protected.Union(sshPorts(in))
}

// sshPorts are the ports on which root's sshd listens or was seen before: its owner may be out of sight for a moment, and
// it may be about to start again. PID 1 counts too: under socket activation it holds sshd's socket.
func sshPorts(in Input) firewall.PortSet {
	ports := in.SSH
	for i := range in.Listeners {
		l := &in.Listeners[i]
		owner, known := in.Owners[l.Cookie]
		if l.UID != 0 || l.Protocol != sockets.TCP || !known {
			continue
		}
		if slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool { return p.Name == "sshd" || p.PID == 1 }) {
			ports.Add(l.Addr.Port())
		}
	}
	return ports
}

// ruleset is the one gate between claims and the kernel.
func ruleset(in Input, sidecars PortRange, protected, claimed, quarantined firewall.PortSet) firewall.Ruleset {
	inRange := sidecars.Ports()
	open := claimed.Intersect(inRange.Union(in.Policy.ExtraPorts).Union(in.Leaving)).Minus(protected)
	cut := firewall.PortSet{}
	if q := in.Policy.Quarantine; q != nil {
		cut = quarantined.Intersect(q.Ports).Minus(open)
	}
	guard := inRange.Union(in.Policy.GuardPorts).Union(cut).Minus(protected)
	if !in.Settled {
		guard = guard.Intersect(in.AdoptedGuard)
	}
	if in.Policy.CutOnClose {
		cut = cut.Union(in.WasOpen)
	}
	return firewall.Ruleset{
		Guard:    guard,
		Open:     open,
		Cut:      cut.Intersect(guard).Minus(open),
		CutRules: in.Policy.Quarantine != nil || in.Policy.CutOnClose,
		Accept:   in.Policy.Accept,
	}
}

// find adds a finding of the catalog's severity, its sentences filled from pairs. Values are cleaned by Render.
func (e *evaluation) find(f Finding, pairs ...string) {
	entry, ok := catalog.Lookup(f.ID)
	if !ok {
		panic("hostagent: finding " + string(f.ID) + " is not in the catalog")
	}
	if f.Severity = entry.Severity; f.State == "" {
		f.State = Open
	}
	if f.Listener != nil {
		e.suspect(f.Listener)
	}
	if e.wordless {
		e.res.Findings = append(e.res.Findings, f)
		return
	}
	if f.Listener != nil && f.Listener.Exposed() && f.Ways == nil {
		f.Ways = e.ways(f.Listener)
	}
	message := entry.Message
	if f.State == Mitigated && entry.Mitigated != "" {
		f.Severity, message = catalog.Info, entry.Mitigated
	}
	if strings.Contains(message, "{ways}") {
		pairs = append(pairs, "ways", waysText(f.Ways))
	}
	pairs = append(pairs, "guard", "hostagent's guard")
	f.Message = catalog.Render(message, pairs...)
	f.Remedy = catalog.Render(entry.Remedy, pairs...)
	e.res.Findings = append(e.res.Findings, f)
}

// collectClaims sorts out which registrations ask for a port, and opens the ports of those that may have it.
func (e *evaluation) collectClaims() {
	for i := range e.in.Registrations {
		r := &e.in.Registrations[i]
		switch {
		case e.in.Policy.counts(r):
			e.collect(r)
		case r.Kind == consul.KindConnectProxy:
			e.refuse(r, r.Port, "it is a sidecar that names no destination service", "register it with proxy { destination_service_name }")
		case r.IsGateway():
			e.unconfirmed(r, "a "+strings.ReplaceAll(r.Kind, "-", " "), "gateways")
		case r.Native:
			e.unconfirmed(r, "Connect-native", "native_services")
		case misspelt(r) != "":
			e.refuse(r, r.Port, fmt.Sprintf("its kind is %q, which means nothing to Consul", catalog.Clean(r.Kind)),
				fmt.Sprintf("register it with kind = %q", misspelt(r)))
		}
	}
	ports, held := e.held(false)
	e.claimed = e.claimed.Union(ports)
	e.claimed = ruleset(e.in, e.res.Range, e.protected, e.claimed, firewall.PortSet{}).Open // what is held may be any port
	from := sourceTexts(e.in.Policy.AllowCluster, e.in.Policy.AllowFrom)
	for port := range e.claimed.All() {
		opening := Opening{Port: port, Kind: OpensMesh, From: from}
		for _, c := range e.claims[port] {
			opening.add(c.reg)
		}
		opening.finish(held[port])
		e.res.Openings = append(e.res.Openings, opening)
	}
}

// held returns the ports that an earlier whole answer held, as exposed paths or as others, and by port who asked for them.
func (e *evaluation) held(paths bool) (ports firewall.PortSet, ids map[uint16][]string) {
	ids = map[uint16][]string{}
	for _, h := range e.in.Held {
		if h.Path == paths {
			ports.Add(h.Port)
			ids[h.Port] = append(ids[h.Port], h.ID)
		}
	}
	return ports, ids
}

// add notes that r asks for the port.
func (o *Opening) add(r *consul.Registration) {
	o.Predicted = o.Predicted || r.Predicted
	o.IDs = append(o.IDs, r.ID)
	o.Services = append(o.Services, destination(r))
}

// finish sorts who asks for the port; where nobody does any more, those who did are told instead.
func (o *Opening) finish(held []string) {
	if o.Held = len(o.IDs) == 0; o.Held {
		o.IDs = slices.DeleteFunc(held, func(id string) bool { return id == "" })
	}
	slices.Sort(o.IDs)
	slices.Sort(o.Services)
	o.IDs, o.Services = slices.Compact(o.IDs), slices.Compact(o.Services)
}

func (e *evaluation) unconfirmed(r *consul.Registration, claimed, setting string) {
	e.find(Finding{ID: catalog.UnconfirmedClaim, Service: r.Name, ServiceID: r.ID},
		"service", r.Name, "claim", claimed, "setting", setting)
}

// judgeClaims looks at what was registered twice and at what nobody serves: a registration is served where something
// listens on one of the ports that it has, so that one of several, or a config entry that is yet to come, is no news.
func (e *evaluation) judgeClaims() {
	for _, port := range slices.Sorted(maps.Keys(e.claims)) {
		claims := slices.DeleteFunc(slices.Clone(e.claims[port]), func(c claim) bool {
			return c.beside // another network namespace has a port of that number, too, and another address of a gateway
		})
		if len(claims) > 1 {
			ids := make([]string, len(claims))
			for i, c := range claims {
				ids[i] = catalog.Clean(c.reg.ID)
			}
			slices.Sort(ids)
			e.find(Finding{ID: catalog.DuplicatePort, Port: port}, "port", strconv.Itoa(int(port)), "services", list(ids))
		}
		for _, c := range claims {
			if e.in.Source == SourceFiles || c.isCalledElsewhere() || e.served(c) {
				continue // what no agent has registered need not listen
			}
			e.find(Finding{ID: catalog.SidecarNotListening, Service: c.service(), ServiceID: c.reg.ID, Port: port},
				"port", strconv.Itoa(int(port)), "service", c.reg.ID, "start", c.start())
		}
	}
}

func (e *evaluation) served(c claim) bool {
	return slices.ContainsFunc(c.ports(), func(port uint16) bool {
		return slices.ContainsFunc(e.byPort[port], func(l *sockets.Listener) bool { return l.Protocol == sockets.TCP })
	}) || e.servedElsewhere(c)
}

// isCalledElsewhere tells whether no other host is sent to the registered port: ingress and API gateways are called on the ports
// of their config entries, and before they have any they do not listen.
func (c claim) isCalledElsewhere() bool {
	return c.reg.Kind == consul.KindIngressGateway || c.reg.Kind == consul.KindAPIGateway
}

// ports are those on which what is claimed may listen.
func (c claim) ports() []uint16 { return listenPorts(c.reg) }

// socketKey is what makes a socket another one to people.
type socketKey struct {
	protocol sockets.Protocol
	addr     netip.AddrPort
	uid      uint32
}

// repeats tells whether an earlier socket of the list has the same protocol, address and user: SO_REUSEPORT groups are
// one listener to people. No port's sockets are walked more than once, however many somebody opens.
func (e *evaluation) repeats(l *sockets.Listener) bool {
	port := l.Addr.Port()
	all := e.byPort[port]
	if len(all) < 2 {
		return false
	}
	first := e.first[port]
	if first == nil {
		first = make(map[socketKey]*sockets.Listener, len(all))
		for _, other := range all {
			if key := (socketKey{other.Protocol, other.Addr, other.UID}); first[key] == nil {
				first[key] = other
			}
		}
		e.first[port] = first
	}
	return first[socketKey{l.Protocol, l.Addr, l.UID}] != l
}

func (e *evaluation) owner(l *sockets.Listener) *sockets.Owner {
	if o, ok := e.in.Owners[l.Cookie]; ok {
		return &o
	}
	return nil
}

// rootSuspects asks for the owners of root's sockets on ports that could get into a set: one may be sshd.
func (e *evaluation) rootSuspects() {
	candidates := e.res.Range.Ports().Union(e.in.Policy.ExtraPorts).Union(e.in.Policy.GuardPorts)
	if q := e.in.Policy.Quarantine; q != nil {
		candidates = candidates.Union(q.Ports)
	}
	for i := range e.in.Listeners {
		l := &e.in.Listeners[i]
		if l.UID == 0 && l.Protocol == sockets.TCP && candidates.Has(l.Addr.Port()) {
			e.suspect(l)
		}
	}
}

// list joins words as a sentence does: "a", "a and b", "a, b and c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	const most = 5
	if len(words) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// listTo is list of as many words as fit into that many bytes, one at least: a sentence that is cut says less than one that
// counts what it leaves out.
func listTo(words []string, most int) string {
	text := list(words)
	for n := min(len(words)-1, 4); n > 0 && len(text) > most; n-- {
		text = fmt.Sprintf("%s and %d more", strings.Join(words[:n], ", "), len(words)-n)
	}
	return text
}

// shellWord writes text for a command that people paste: one word to a shell, whatever stands in it.
func shellWord(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/@:"
	if text != "" && strings.Trim(text, plain) == "" && !strings.HasPrefix(text, "-") {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// addresses collects where a service can be called.
type addresses []netip.Addr

func (a *addresses) add(text string, fallback netip.Addr) {
	addr, err := netip.ParseAddr(text)
	if text == "" {
		addr, err = fallback, nil
	}
	if err == nil && addr.IsValid() {
		*a = append(*a, addr)
	}
}
