// SPDX-License-Identifier: MPL-2.0

// Package catalog is the one table of finding ids: how severe each is, what it says, why it matters and what mends it.
// Everything that shows text about a finding (scan table, JSON, Consul checks, logs, documentation) reads it here.
// It imports nothing of ours.
package catalog

import (
	"fmt"
	"strings"
	"sync"
)

// ID names a kind of finding. Ids are API: they appear in configuration, JSON and alerts, and never change meaning.
type ID string

// The findings that hostagent knows.
const (
	ExposedListener       ID = "exposed-listener"
	SquattedPort          ID = "squatted-port"
	DuplicatePort         ID = "duplicate-port"
	PortNotOpened         ID = "port-not-opened"
	UnconfirmedClaim      ID = "unconfirmed-claim"
	SidecarNotListening   ID = "sidecar-not-listening"
	RangeRefused          ID = "range-refused"
	RangeShared           ID = "range-shared"
	RangeEphemeralOverlap ID = "range-ephemeral-overlap"
	RangeNearlyFull       ID = "range-nearly-full"
	RouteLocalnet         ID = "route-localnet"
	RegistrationsFiltered ID = "registrations-filtered"
	FirewallDrift         ID = "firewall-drift"
	OpeningBlocked        ID = "opening-blocked"
	ConsulPortBlocked     ID = "consul-port-blocked"
	SavedRules            ID = "saved-rules"
	QuarantineRefused     ID = "quarantine-refused"
	ExposedSibling        ID = "exposed-sibling"
	ExposedUpstream       ID = "exposed-upstream"
	ExposedAdmin          ID = "exposed-admin"
	ExposedConsulAPI      ID = "exposed-consul-api"
	NotASidecar           ID = "not-a-sidecar"
	SidecarLoopbackOnly   ID = "sidecar-loopback-only"
	AgentImpostor         ID = "agent-impostor"
	AgentNotLocal         ID = "agent-not-local"
)

// Severity says how much a finding matters. The zero value is Info; a higher one is worse.
type Severity int

// The severities, mildest first.
const (
	Info Severity = iota
	Warning
	Critical
)

func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	case Critical:
		return "critical"
	}
	return fmt.Sprintf("Severity(%d)", int(s))
}

// MarshalText writes s as its lower-case word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSeverity(string(text))
	return err
}

// ParseSeverity reads "info", "warning" or "critical".
func ParseSeverity(text string) (Severity, error) {
	for _, s := range []Severity{Info, Warning, Critical} {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, fmt.Errorf("severity %q is not one of info, warning, critical", text)
}

// Entry is what the catalog knows of one kind of finding. Message and Remedy hold {placeholders} for Render.
type Entry struct {
	ID       ID
	Severity Severity
	Title    string // a few words, for headings
	Message  string // one sentence: what is wrong
	// Mitigated is Message for where the guard keeps the network from the port; empty where that changes nothing.
	Mitigated string
	Remedy    string // one sentence: what mends it
	Why       string // why it matters, for documentation
	// OfService tells that the finding is about one application, and is shown with it: Finding.ServiceID is the id of the
	// application then, and not that of its sidecar.
	OfService bool
}

// Entries returns every entry, in the order in which documentation lists them.
func Entries() []Entry {
	return []Entry{
		{
			ID: ExposedListener, Severity: Warning, OfService: true,
			Title:     "application reachable around the mesh",
			Message:   "{service} listens on {listener}: {who} reaches {ways} without mTLS and without intentions",
			Mitigated: "{service} listens on {listener}: only {guard} keeps the network from it",
			Remedy:    "{fix}; only its sidecar should be able to call it",
			Why: "A mesh service is protected by its sidecar. While its own port is bound to anything but loopback, any host " +
				"that can route to this one talks to it directly, past mTLS and past every intention.",
		},
		{
			ID: SquattedPort, Severity: Warning,
			Title:   "port of the sidecar range in use by something else",
			Message: "{listener} is in the sidecar range and {reason}",
			Remedy:  "stop {process} or move it out of {range}: Consul hands these ports out without looking whether they are free",
			Why: "Consul assigns sidecar ports without looking at bound sockets. A sidecar that is given a taken port cannot " +
				"start, and whoever holds the port before the sidecar does receives the traffic that is meant for it.",
		},
		{
			ID: DuplicatePort, Severity: Warning,
			Title:   "one port registered twice",
			Message: "port {port} is registered by {services}: at most one of them can be listening there",
			Remedy:  "give each its own port, or leave the port out so that Consul assigns one, and register again",
			Why: "Consul accepts two registrations of one port. Only one process can hold it; callers of the other service " +
				"reach the wrong sidecar and fail its certificate check.",
		},
		{
			ID: PortNotOpened, Severity: Warning,
			Title:   "registered port left closed",
			Message: "port {port} of {service} stays as the host's own firewall has it: {reason}",
			Remedy:  "{fix}",
			Why: "A registration is a claim, never an authority: whoever may register one service could otherwise open any " +
				"port of the host. hostagent opens a registered port only inside the sidecar range or on the operator's extra_ports.",
		},
		{
			ID: UnconfirmedClaim, Severity: Warning,
			Title:   "unconfirmed gateway or native service",
			Message: "{service} claims to be {claim}, which the operator has not confirmed",
			Remedy:  "if it really is one, add its name to {setting} in the configuration; otherwise deregister it",
			Why: "Gateways and Connect-native services take mesh traffic without a sidecar, so their listeners may face the " +
				"network. Anybody with service:write on one name can claim to be either; the operator's list confirms it.",
		},
		{
			ID: SidecarNotListening, Severity: Warning,
			Title:   "no sidecar behind a registered port",
			Message: "nothing listens on port {port} that {service} registered",
			Remedy:  "{start}; or deregister {service}",
			Why: "Callers are sent to a port where nobody answers, and an open port without its sidecar is free for any local " +
				"process to take.",
		},
		{
			ID: RangeRefused, Severity: Critical,
			Title:   "sidecar range refused",
			Message: "the Consul agent's sidecar range {reported} is not taken over: {reason}; {range} stays in force",
			Remedy:  "give sidecars a small range of their own: ports { sidecar_min_port, sidecar_max_port } in the agent's configuration, or sidecar_range in hostagent's; or move what is protected out of it",
			Why: "Consul accepts any range from 20 to 65535. Closing such a range would cut ssh and everything else off, so a " +
				"range is accepted only up to 4,096 ports and free of protected ones.",
		},
		{
			ID: RangeShared, Severity: Warning,
			Title:   "sidecar range shared with another allocator",
			Message: "{who} hands out ports of the sidecar range: {ports}",
			Remedy:  "{fix}",
			Why: "Consul assigns sidecar ports without looking whether they are free. Where something else assigns from the same " +
				"ports, the one that comes second fails to start, and a task on a sidecar's port receives its traffic.",
		},
		{
			ID: RangeEphemeralOverlap, Severity: Warning,
			Title:   "sidecar range inside the kernel's ephemeral ports",
			Message: "the kernel may take {ports} of the sidecar range as source ports of outgoing connections (net.ipv4.ip_local_port_range is {ephemeral})",
			Remedy:  "sysctl -w net.ipv4.ip_local_reserved_ports={reserved} ; and for the next boot the line net.ipv4.ip_local_reserved_ports={reserved} in a file of /etc/sysctl.d",
			Why: "A port that an outgoing connection happens to use cannot be listened on: a sidecar that is given it fails to start, " +
				"now and then and without a trace. Reserved ports are never used as source ports.",
		},
		{
			ID: RangeNearlyFull, Severity: Warning,
			Title:   "sidecar range nearly full",
			Message: "{used} of the {size} ports of the sidecar range {range} are registered",
			Remedy:  "widen ports { sidecar_min_port, sidecar_max_port } in the Consul agent's configuration before the range is used up",
			Why:     "When no port is left, Consul refuses to register the sidecar but keeps its service, which then runs without one.",
		},
		{
			ID: RouteLocalnet, Severity: Warning,
			Title:   "loopback addresses routed from the network",
			Message: "the kernel takes packets for 127.0.0.0/8 from {interfaces}: neighbours there can reach what listens on loopback only",
			Remedy:  "sysctl -w {sysctl}=0, unless what set it needs it; then drop packets for 127.0.0.0/8 that do not come from lo",
			Why: "Applications of the mesh listen on loopback because nobody else can call them there. With route_localnet a host of " +
				"the same network segment, or a container on the bridge, can.",
		},
		{
			ID: RegistrationsFiltered, Severity: Critical,
			Title:   "registrations hidden from hostagent",
			Message: "the Consul agent's answer is incomplete ({reason}): what is open and closed stays so",
			Remedy:  `give hostagent a token with service_prefix "" { policy = "read" }, in consul { token_file } or CONSUL_HTTP_TOKEN_FILE; "hostagent acl-policy" prints all that it needs`,
			Why: "An agent answers a token without service:read with status 200 and fewer services. Acting on it would close " +
				"the ports of running sidecars.",
		},
		{
			ID: AgentImpostor, Severity: Critical,
			Title:   "somebody else answers at the Consul agent's address",
			Message: "hostagent has sent nothing to what answers at the Consul agent's address: {reason}; what is open and closed stays so",
			Remedy:  "{fix}",
			Why: "Any user of the host can listen on the agent's port while the agent is down. Whoever does would be sent " +
				"hostagent's token, and could invent registrations that open and close ports.",
		},
		{
			ID: AgentNotLocal, Severity: Critical,
			Title:   "the Consul agent is another host's",
			Message: "the Consul agent is not this host's: {reason}; what is open and closed stays so",
			Remedy:  "{fix}",
			Why: "Registrations with an agent say which ports its own host needs. Those of another host would open ports here that " +
				"nobody uses, and close those of running sidecars.",
		},
		{
			ID: FirewallDrift, Severity: Warning,
			Title:   "firewall changed by somebody else",
			Message: "{who} changed what hostagent keeps in the kernel: {what}; {state}",
			Remedy:  "{fix}",
			Why: "Whoever flushes or edits these rules opens the sidecar range or closes a sidecar's port, if only for a moment. " +
				"hostagent puts them back; a program that does it again and again has to be told to leave them alone.",
		},
		{
			ID: OpeningBlocked, Severity: Warning,
			Title:   "open port blocked by another firewall",
			Message: "{ports} cannot be reached from the network{families}: {chain} drops what comes there ({rule})",
			Remedy:  "{fix}{keep}",
			Why: "An accept in one nf_tables base chain does not stand against a drop in another one of the same hook. The host's " +
				"own ruleset has to accept sidecar ports, too.",
		},
		{
			ID: ConsulPortBlocked, Severity: Warning,
			Title:   "port of Consul blocked by the host's firewall",
			Message: "Consul's {name} port {port} cannot be reached from the network: {chain} drops what comes there ({rule})",
			Remedy:  "{fix}{keep}",
			Why: "Without gossip and RPC the agent is taken for failed, and its services leave the mesh, although everything on " +
				"this host works.",
		},
		{
			ID: SavedRules, Severity: Warning,
			Title:   "hostagent's rules saved by a firewall loader",
			Message: "{file} holds rules of hostagent ({lines}): {harm}",
			Remedy:  "look at these lines, then delete them: {fix}",
			Why: "iptables-restore refuses a whole file for one rule that names a missing set, and the host comes up without any " +
				"firewall. Rules of hostagent do not belong into saved files: it writes them itself, early.",
		},
		{
			ID: QuarantineRefused, Severity: Warning, OfService: true,
			Title:   "exposed listener not quarantined",
			Message: "port {port} of {service} is not closed to the network: {reason}",
			Remedy:  "{fix}",
			Why: "Quarantine acts on the word of a registration. So it closes nothing that the operator has not listed, nothing " +
				"that somebody else uses, nothing of root's unless the service is listed by name, and nothing that the mesh itself " +
				"calls from outside of the host's own network namespace.",
		},
		{
			ID: ExposedSibling, Severity: Warning, OfService: true,
			Title:     "another port of an application reachable around the mesh",
			Message:   "{unit}, which runs {service}, also listens on {listener}: the network reaches {ways} without mTLS and without intentions",
			Mitigated: "{unit}, which runs {service}, also listens on {listener}: only {guard} keeps the network from it",
			Remedy:    "{fix}; if the network is meant to reach it, exempt it with a reason",
			Why: "An application often has more doors than the one that is registered: metrics, debugging, administration, a second " +
				"protocol. What reaches one of them reaches the application, past mTLS and past every intention.",
		},
		{
			ID: ExposedUpstream, Severity: Critical, OfService: true,
			Title:     "upstream of a sidecar open to the network",
			Message:   "the sidecar of {service} listens for upstream {upstream} on {listener}: whoever reaches {ways} calls {upstream} as {service}",
			Mitigated: "the sidecar of {service} listens for upstream {upstream} on {listener}: only {guard} keeps the network from calling it as {service}",
			Remedy:    "{fix}",
			Why: "Whatever connects to a sidecar's upstream listener is sent on with the certificate of the sidecar's service. Bound to " +
				"anything but loopback, it lends the service's identity, and every intention it has, to the whole network.",
		},
		{
			ID: ExposedAdmin, Severity: Critical, OfService: true,
			Title:     "administration of a sidecar open to the network",
			Message:   "the sidecar of {service} {does} {listener}{unexplained}: the network reaches {ways}",
			Mitigated: "the sidecar of {service} {does} {listener}{unexplained}: only {guard} keeps the network from it",
			Remedy:    "{fix}",
			Why: "Envoy's administration port asks nobody who he is. It shows the sidecar's certificates and configuration, and can " +
				"stop it. What else a sidecar listens on is for debugging, mostly, and asks nobody either.",
		},
		{
			ID: ExposedConsulAPI, Severity: Warning,
			Title:   "plain API of the Consul agent open to the network",
			Message: "Consul's {name} API without TLS listens on {listener}: the network reaches {ways}",
			Remedy:  "{fix}",
			Why: "Tokens cross the plain API in the clear, and where ACLs are off or the anonymous token may do much, anybody who " +
				"reaches it registers services, reads secrets or takes a certificate of the mesh.",
		},
		{
			ID: NotASidecar, Severity: Critical,
			Title:   "no sidecar of the mesh behind its port",
			Message: "what listens on {listener} for {service} is no sidecar of it: {reason}",
			Remedy:  "stop {process}, and {fix}",
			Why: "An open port proves only that somebody registered it. A sidecar shows a certificate of the mesh's CA that names its " +
				"service; whatever cannot do that takes traffic that is meant for the service, or is one that forgot its proxy.",
		},
		{
			ID: SidecarLoopbackOnly, Severity: Warning,
			Title:   "sidecar that the network cannot reach",
			Message: "port {port} of {service} listens on {listener} only: no other host of the mesh can call it",
			Remedy:  "{fix}",
			Why: "A sidecar takes the connections of other hosts. Bound to loopback it serves only callers on this host, while Consul " +
				"sends everybody there.",
		},
	}
}

// Lookup returns the entry of id.
func Lookup(id ID) (Entry, bool) {
	e, ok := byID()[id]
	return e, ok
}

// byID returns all entries, which nobody changes.
var byID = sync.OnceValue(func() map[ID]Entry {
	entries := map[ID]Entry{}
	for _, e := range Entries() {
		entries[e.ID] = e
	}
	return entries
})

// maxCommand is the length in runes to which Render cuts what people paste or follow: half of a command is none, and a
// check's output of 4,096 bytes has room for a whole one.
const maxCommand = 1000

// Render fills the placeholders of a template from pairs of name and value. Values are untrusted: each goes through
// Clean, those of commands ({fix}, {reserved}, {sysctl}) with more room. An unknown placeholder stays as it is, so that a
// missing value is seen. Of two values of one name the first counts, and placeholders in values stay as they are.
func Render(template string, pairs ...string) string {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(template, "{")
		b.WriteString(text)
		if !found {
			return b.String()
		}
		name, behind, closed := strings.Cut(rest, "}")
		if value, known := valueOf(name, pairs); known && closed {
			b.WriteString(value)
			template = behind
		} else {
			b.WriteString("{")
			template = rest
		}
	}
}

// valueOf returns the value of a placeholder, clean.
func valueOf(name string, pairs []string) (value string, known bool) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] != name {
			continue
		}
		switch name {
		case "fix", "reserved", "sysctl":
			return CleanTo(pairs[i+1], maxCommand), true
		}
		return CleanTo(pairs[i+1], maxName), true
	}
	return "", false
}

// maxName is the length in runes to which Clean cuts: names may have 300 characters and a sentence holds several.
const maxName = 160

// Clean makes text of unknown origin safe to show: one line, no control or invisible characters that could drive a
// terminal or reorder what is read, valid UTF-8, at most 160 runes. Ordinary text comes back unchanged.
func Clean(text string) string { return CleanTo(text, maxName) }

// CleanTo is Clean with another length, for whole sentences such as errors.
func CleanTo(text string, runes int) string {
	if len(text) <= runes && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return text // nearly always
	}
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if n++; n > runes {
			b.WriteString("…")
			break
		}
		if harmless(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
