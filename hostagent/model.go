// SPDX-License-Identifier: MPL-2.0

// Package hostagent is the core: it decides which ports open and what is wrong on a host, and runs that decision in a
// loop. Evaluate decides, as a pure function; Agent collects, evaluates, applies and reports. The kernel, the Consul
// agent and the process table are reached through packages firewall, sockets and consul, wired in by the caller.
package hostagent

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// Mode says whether hostagent manages the firewall. There is no default.
type Mode string

// The modes.
const (
	ModeObserve Mode = "observe" // owns nothing: says what it would do
	ModeGuard   Mode = "guard"   // keeps the kernel equal to what Evaluate wants
)

// PortRange is a range of ports, both ends included. The zero value is the empty range.
type PortRange struct{ First, Last uint16 }

// DefaultSidecarRange is what a Consul agent uses when nobody configured another one.
func DefaultSidecarRange() PortRange { return PortRange{First: 21000, Last: 21255} }

// Contains tells whether port lies in r.
func (r PortRange) Contains(port uint16) bool {
	return r.First != 0 && r.First <= port && port <= r.Last
}

// Ports returns r as a set.
func (r PortRange) Ports() firewall.PortSet {
	var s firewall.PortSet
	if r.First != 0 {
		s.AddRange(r.First, r.Last)
	}
	return s
}

func (r PortRange) String() string {
	if r.First == 0 {
		return "none"
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Policy is the operator's word: the only authority over which ports may open or close.
type Policy struct {
	Mode         Mode
	SidecarRange *PortRange       // nil: the Consul agent's
	ExtraPorts   firewall.PortSet // outside the range, and may be opened by a registration
	GuardPorts   firewall.PortSet // beside the range, closed unless open
	Protected    firewall.PortSet // never in any set
	AllowFrom    []netip.Prefix   // who may connect to open ports; empty: everybody, unless AllowCluster
	AllowCluster bool             // the members of this Consul datacenter may
	AllowBridges bool             // the networks of local bridges may, where others may not
	Quarantine   *Quarantine      // nil: exposed listeners are only reported
	CutOnClose   bool             // running connections end when a sidecar's port closes
	Gateways     []string         // confirmed names: see confirms
	Native       []string         // confirmed names
	Namespace    string           // of Consul, for which names stand that name none; "" is the default one
	AllServices  bool             // services without a sidecar must not listen on the network either
	OwnService   string           // the name under which hostagent reports
	Accept       firewall.Accept
	PublishSet   firewall.SetName // kept equal to the open ports; zero: none
	Exemptions   []Exemption
	// ExposedPathsFrom and ExposedPathsCluster may connect to what sidecars let through without mTLS; neither: nobody.
	ExposedPathsFrom    []netip.Prefix
	ExposedPathsCluster bool
	AllowRemoteAgent    bool // the agent may be another host's
	// ReportOnService has an application's results stand on its own service, with the status that it has for its name,
	// "" for any other's; nil where they stand on OwnService.
	ReportOnService map[string]consul.Status
	CountsOnly      bool // checks tell how many findings there are, and no more
	Probe           bool // what listens on a sidecar's port is asked for its certificate
}

// Quarantine is what the operator lets exposed listeners be closed for.
type Quarantine struct {
	Ports    firewall.PortSet
	Findings []catalog.ID
	Services []string // names; empty: all
}

// counts tells whether r may ask for its port to be open: a sidecar of some service, or a gateway or native service
// that the operator confirmed by name. Whether it gets the port is another question.
func (p *Policy) counts(r *consul.Registration) bool {
	switch {
	case r.Kind == consul.KindConnectProxy:
		return r.Proxy != nil && r.Proxy.DestinationName != ""
	case r.IsGateway():
		return p.confirms(p.Gateways, r)
	}
	return r.Native && p.confirms(p.Native, r)
}

// isApplication tells whether r is to be judged as an application: Consul takes any text for a kind, so whatever is no
// sidecar and no gateway that the operator confirmed is one.
func (p *Policy) isApplication(r *consul.Registration) bool {
	return r.Kind != consul.KindConnectProxy && (!r.IsGateway() || !p.confirms(p.Gateways, r))
}

// claims returns the ports that the registrations ask for, each with the id of who asks.
func (p *Policy) claims(regs []consul.Registration) map[Held]bool {
	claims := map[Held]bool{}
	for i := range regs {
		r := &regs[i]
		if !p.counts(r) {
			continue
		}
		for _, port := range append(asksBeside(r), r.Port) {
			if port > 0 && port <= 65535 {
				claims[Held{ID: r.ID, Port: uint16(port)}] = true
			}
		}
		p.claimPaths(claims, r)
	}
	return claims
}

// Held is a sidecar's port that an earlier whole answer held and that has not been missing for close_delay yet.
type Held struct {
	ID   string // of the registration; "" for a port adopted from an earlier run's rules
	Port uint16
	Path bool // as an exposed path: only for Policy.ExposedPathsFrom
}

// Source is where registrations come from.
type Source string

// The sources.
const (
	SourceAgent Source = "agent" // the local Consul agent
	SourceFiles Source = "files" // service definitions: what an agent would make of them, though none has
	SourceNone  Source = "none"  // neither was to be had: services are not known
)

// Input is all that Evaluate knows. Everything in it but Policy is untrusted.
type Input struct {
	Registrations []consul.Registration // of the last whole answer
	Held          []Held
	Listeners     []sockets.Listener
	Elsewhere     []sockets.Listener       // in other network namespaces of this host
	Namespaces    []sockets.Namespace      // those, by ID
	Today         time.Time                // midnight in UTC, for what the operator limits to a day
	Members       []netip.Addr             // of this datacenter, sorted: who may connect where Policy.AllowCluster says so
	PathMembers   []netip.Addr             // the same, for Policy.ExposedPathsCluster
	Networks      facts.Networks           // of this host; read only where Policy limits who may connect
	Owners        map[uint64]sockets.Owner // by socket cookie; a missing one is normal
	Agent         consul.Agent             // zero when the agent did not tell
	PreviousRange PortRange                // that the last pass used; DefaultSidecarRange before the first
	Settled       bool                     // ports may be closed: two equal whole answers have been seen
	AdoptedGuard  firewall.PortSet         // guarded by an earlier run, and so before Settled too
	Leaving       firewall.PortSet         // open under a sidecar range that was in force until less than close_delay ago
	Enforced      firewall.PortSet         // what the kernel was last seen to keep the network from
	WasOpen       firewall.PortSet         // open once, in this run or, as far as rules tell, an earlier one
	Quarantined   []Quarantined            // by port: what was in quarantine, until close_delay after the last registration for it
	SSH           firewall.PortSet         // where root's sshd was seen before
	Trouble       AgentTrouble             // why the agent's last answer does not count; zero if it does
	Source        Source                   // of Registrations; with SourceNone nothing is judged by their absence
	Host          *Host                    // nil: not looked at
	Drift         *Drift                   // nil: nobody touched what is ours lately
	Blocked       []firewall.Block         // what other firewalls of the host keep from the network, of what it should reach
	Probes        []Probed                 // what listeners of Result.Probes have shown, by ProbeTarget; a missing one is normal
	Policy        Policy
}

// Host is what bears on the sidecar range beside listeners. It is read only once it stands in an Input.
type Host struct {
	facts.Facts
	Published []firewall.Published // ports that nat rules send elsewhere
	Partial   bool                 // some of Published could not be read
	// ForeignNAT tells that rules which Published does not know lead somewhere, too.
	ForeignNAT bool
	// Redirects are what transparent proxies live by. What could not be read is not among them, and RedirectsKnown false then:
	// they are the reason to call something safe, so that what stood before does not count.
	Redirects      []firewall.Redirect
	RedirectsKnown bool
}

// keep puts what was read before in the place of what could not be read this time: a question that fails is no answer.
func (h *Host) keep(before *Host) {
	if before == nil {
		return
	}
	if h.Nomad == nil && len(h.Notes) > 0 {
		h.Nomad = before.Nomad
	}
	if len(h.Addresses) == 0 && len(h.Notes) > 0 {
		h.Addresses, h.Interfaces = before.Addresses, before.Interfaces
	}
	if h.Partial {
		h.Published = before.Published
	}
}

// equal tells whether Evaluate says the same of both where owners and policy are the same: those are not compared.
// Registrations and hosts are equal only where they are the same in memory, as those of an unchanged answer are.
func (in *Input) equal(other *Input) bool {
	sameRegistrations := len(in.Registrations) == len(other.Registrations) &&
		(len(in.Registrations) == 0 || &in.Registrations[0] == &other.Registrations[0])
	return sameRegistrations && slices.Equal(in.Held, other.Held) && slices.Equal(in.Listeners, other.Listeners) &&
		sameAddrs(in.Members, other.Members) && sameAddrs(in.PathMembers, other.PathMembers) && in.Networks.Equal(&other.Networks) &&
		reflect.DeepEqual(in.Agent, other.Agent) && in.PreviousRange == other.PreviousRange &&
		in.SSH == other.SSH && in.Settled == other.Settled && in.AdoptedGuard == other.AdoptedGuard && in.Leaving == other.Leaving && in.Enforced == other.Enforced &&
		in.Trouble == other.Trouble && in.Source == other.Source && in.Host == other.Host && in.Drift == other.Drift &&
		reflect.DeepEqual(in.Blocked, other.Blocked) &&
		slices.Equal(in.Elsewhere, other.Elsewhere) && reflect.DeepEqual(in.Namespaces, other.Namespaces) && in.Today.Equal(other.Today) &&
		slices.Equal(in.Probes, other.Probes) &&
		in.WasOpen == other.WasOpen && slices.EqualFunc(in.Quarantined, other.Quarantined, Quarantined.equal)
}

// State says what stands between a finding and its harm.
type State string

// The states of a finding.
const (
	Open      State = "open"
	Mitigated State = "mitigated" // the guard keeps the network from the port
	Exempt    State = "exempt"    // the operator means it to be so, and says why
)

// Finding is one thing that is wrong. Message and Remedy are one line each, safe to show; they hold no times, pids or
// counters, so that a steady host says the same at every pass. The other fields are raw.
type Finding struct {
	ID        catalog.ID
	Severity  catalog.Severity
	State     State
	Service   string // name of the service; "" for the host
	ServiceID string
	Port      uint16
	Protocol  sockets.Protocol  // of Port where there is no Listener; 0 is TCP
	Listener  *sockets.Listener // nil where no socket is concerned
	Owner     *sockets.Owner    // nil when unknown
	// Ways are the addresses of this host at which the network reaches Listener, firewalls aside: link-local ones last, IPv4
	// first, then by address, and not more than 100. nil where they are not known, empty where there is none now.
	Ways      []Way
	Exemption *Exemption // that holds where State is Exempt, and otherwise has ended; nil for none
	// Behind is where what comes for Port is passed on to; nil where it is not, or that is not known.
	Behind  *PublishedPort
	Message string
	Remedy  string
}

// Way is an address of this host and the interface that has it.
type Way struct {
	Addr      netip.Addr
	Interface string // its name, raw; "" when unknown
}

// Exemption is the operator's word that a finding is meant to be so. Of Service, Port and Executable at least one is set;
// a finding has to meet all that are.
type Exemption struct {
	Finding    catalog.ID
	Service    string // name
	Port       uint16 // 0: any
	Executable string // path, as /proc/PID/exe tells it
	Reason     string
	Firewall   bool      // a firewall elsewhere keeps the network from the listener
	Expires    time.Time // the day in UTC on which it holds for the last time; zero: it holds for good
	// Borrowed tells that it comes from Consul's KV and not from this host, and that who may write there must not open what
	// quarantine closes: it counts for every finding but those of a port that is to be in quarantine.
	Borrowed bool
}

// Opening is a port that is to be open, and for whom.
type Opening struct {
	Port     uint16
	Services []string // destination service or gateway names, sorted
	IDs      []string // ids of the registrations, sorted
	Held     bool     // no registration of the last answer holds it any more
	// Predicted tells that no agent has assigned the port yet: it is what one would.
	Predicted bool
	Kind      OpeningKind
	From      []string // who may connect, in the operator's words; empty for everybody
}

// Service is one mesh service of this host, as Evaluate sees it.
type Service struct {
	ID        string
	Name      string
	Sidecars  []Sidecar
	Listeners []sockets.Listener // that belong to it, exposed or not
}

// Sidecar is a registered proxy of a Service.
type Sidecar struct {
	ID        string
	Port      int // as registered: may be no port at all
	Opened    bool
	Predicted bool // no agent has assigned Port yet
	Paths     []SidecarPath
}

// SidecarPath is a port on which a Sidecar says that it lets others in without mTLS.
type SidecarPath struct {
	Port   uint16
	Kind   OpeningKind
	Opened bool // to Policy.ExposedPathsFrom
}

// Result is what Evaluate decides.
type Result struct {
	Range      PortRange
	RangeTaken bool             // Range is the operator's or the agent's, and not one that merely stands
	SSH        firewall.PortSet // where root's sshd is or was seen
	Rules      firewall.Ruleset
	Openings   []Opening // by port
	// Quarantined are the ports that Rules close, by port, because an application is exposed on them.
	Quarantined []Quarantined
	Findings    []Finding // worst first, then stable
	// Published are the ports of the host that are passed on elsewhere, by port.
	Published []PublishedPort
	Services  []Service // by id
	Suspects  []sockets.Listener
	Devices   map[uint32]string // names of interfaces by index, raw; nil where no socket is bound to one
	// Probes are the listeners whose certificates would make the result better, sorted; a caller that can asks them, and
	// evaluates again with Input.Probes. None unless Policy.Probe.
	Probes []ProbeTarget
	// Accused are those of them that are no sidecars, sorted; Unprobed says which were asked in vain, a few sentences.
	Accused  []ProbeTarget
	Unprobed []string
}

// Worst returns the severity of the worst finding, and false where there is none.
func (r *Result) Worst() (catalog.Severity, bool) {
	if len(r.Findings) == 0 {
		return 0, false
	}
	return r.Findings[0].Severity, true
}

// address writes a socket as people do: "tcp 0.0.0.0:8080".
func address(l *sockets.Listener) string {
	return l.Protocol.String() + " " + l.Addr.String()
}

// processNames lists the distinct names of the processes that hold a socket, "" when unknown.
func processNames(o *sockets.Owner) string {
	if o == nil {
		return ""
	}
	var names []string
	for _, p := range o.Processes {
		if name := p.FullName(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func sortFindings(fs []Finding) {
	slices.SortFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			-cmp.Compare(a.Severity, b.Severity),
			compareExempt(a.State, b.State),
			cmp.Compare(a.ID, b.ID),
			cmp.Compare(a.Service, b.Service),
			cmp.Compare(a.ServiceID, b.ServiceID),
			cmp.Compare(a.Port, b.Port),
			compareListeners(a.Listener, b.Listener),
			cmp.Compare(a.Message, b.Message),
		)
	})
}

// compareExempt puts what is meant to be so behind what is not.
func compareExempt(a, b State) int {
	switch {
	case (a == Exempt) == (b == Exempt):
		return 0
	case a == Exempt:
		return 1
	}
	return -1
}

func compareListeners(a, b *sockets.Listener) int {
	if a == nil || b == nil {
		switch {
		case a != nil:
			return 1
		case b != nil:
			return -1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Addr.Compare(b.Addr), cmp.Compare(a.UID, b.UID))
}

// localService returns the address at which a proxy calls its application.
func localService(p *consul.Proxy) netip.Addr {
	if addr, err := netip.ParseAddr(p.LocalServiceAddress); err == nil {
		return addr
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
