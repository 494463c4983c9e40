// SPDX-License-Identifier: MPL-2.0

// Package config reads hostagent's configuration: settings for a fleet, HCL files, Consul's client environment and flags, in
// that order of growing weight. It is strict: an unknown key, a value out of bounds or a contradiction is refused with file and line.
//
//	c, err := config.Load(paths...)     // files over defaults, or LoadOver, with documents of Consul's KV between them
//	err = c.ApplyEnv(os.LookupEnv)      // CONSUL_HTTP_ADDR and its like over files
//	err = c.SetFlag("mode", "guard")    // flags over both
//	err = c.Validate()                  // what only the whole can tell
//
// It looks at nothing but the configuration: whether a certificate exists or an agent answers is for others to find.
package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// DefaultPath is the folder that Load reads when it is given no path. It need not exist.
const DefaultPath = "/etc/hostagent.d"

// DefaultStateDir is where state is kept.
const DefaultStateDir = "/var/lib/hostagent"

// maxSidecarPorts is the largest sidecar range that is believed, whoever names it.
const maxSidecarPorts = 4096

// Mode is what hostagent does with what it finds. The zero value says that the operator has not chosen.
type Mode string

// The modes. There is no default, so that installing hostagent changes nothing.
const (
	ModeObserve Mode = "observe" // reports, and owns no rule
	ModeGuard   Mode = "guard"   // manages the firewall
)

// Scope says whose listeners are judged.
type Scope string

// The scopes.
const (
	ScopeMesh Scope = "mesh" // services without a sidecar may listen on the network
	ScopeAll  Scope = "all"  // they may not either
)

// Enforce is what is done about listeners that the network should not reach.
type Enforce string

// The kinds of enforcement.
const (
	EnforceReport     Enforce = "report"     // they are reported
	EnforceQuarantine Enforce = "quarantine" // and, on QuarantinePorts, closed to the network
)

// Backend is what holds hostagent's rules and sets.
type Backend string

// The backends.
const (
	BackendAuto     Backend = "auto" // iptables where it can be had
	BackendIptables Backend = "iptables"
	BackendNFTables Backend = "nftables"
)

// IptablesVariant is which iptables holds hostagent's rules.
type IptablesVariant string

// The variants.
const (
	IptablesAuto   IptablesVariant = "auto" // the one that the host's own rules are in
	IptablesNFT    IptablesVariant = "nft"
	IptablesLegacy IptablesVariant = "legacy"
)

// ReportOn is the service whose checks tell what is wrong with an application.
type ReportOn string

// The services that can hold results.
const (
	ReportOnHostagent ReportOn = "hostagent" // hostagent's own: no application is touched
	ReportOnService   ReportOn = "service"   // the application's: discovery and its mesh traffic follow the result
)

// ReportStatus is the status that a result on an application's own service takes while something is wrong.
type ReportStatus string

// The statuses.
const (
	ReportWarning  ReportStatus = "warning"
	ReportCritical ReportStatus = "critical"
)

// ReportDetail is how much the checks tell to whoever may read them in Consul.
type ReportDetail string

// The details.
const (
	ReportFull   ReportDetail = "full"
	ReportCounts ReportDetail = "counts" // how many findings there are of each severity, and of what kind
)

// LogFormat is how log lines are written.
type LogFormat string

// The formats.
const (
	LogText LogFormat = "text" // key=value
	LogJSON LogFormat = "json"
)

// Accept is where the rule stands that lets the network reach open ports. The zero value is the head of filter INPUT.
type Accept struct {
	// None leaves the rule out: the host's own rules admit the open ports.
	None bool
	// Chain is the filter chain at whose head the rule stands; empty means INPUT.
	Chain string
}

// Source is who may connect to open ports: a network, or the members of this Consul datacenter.
type Source struct {
	Network netip.Prefix // zero where Cluster is set
	Cluster bool
}

// String writes s as the configuration does.
func (s Source) String() string {
	if s.Cluster {
		return sourceCluster
	}
	return s.Network.String()
}

// SetName names a set of nf_tables. The zero value is none.
type SetName struct{ Family, Table, Set string }

// String writes n as the configuration does, "inet filter NAME"; the zero value is empty.
func (n SetName) String() string {
	if n == (SetName{}) {
		return ""
	}
	return n.Family + " " + n.Table + " " + n.Set
}

// Config is hostagent's whole configuration. Each field is one key of the files, where the reference configuration
// explains it. Callers own it; it is not safe for use by several goroutines while one of them changes it. Copies share
// the record of where values came from, so pass it by pointer.
type Config struct {
	Mode           Mode
	SidecarRange   PortRange // zero: asked from the Consul agent
	ExtraPorts     []PortRange
	ProtectedPorts []PortRange
	GuardPorts     []PortRange
	AllowFrom      []Source // empty: everybody
	// AllowLocalBridges lets the networks of this host's bridges connect where AllowFrom limits who may.
	AllowLocalBridges bool
	// ExposedPathsFrom may connect to the ports on which sidecars let paths through without mTLS; empty: nobody.
	ExposedPathsFrom []Source
	Gateways         []string
	NativeServices   []string
	Scope            Scope
	Probe            bool // what listens on a sidecar's port is asked for its certificate
	Audit            bool // the production checklist is held against this host once an hour
	// Enforce and the Quarantine lists say which exposed listeners are closed to the network. Empty services are all.
	Enforce            Enforce
	QuarantinePorts    []PortRange
	QuarantineFindings []string
	QuarantineServices []string
	Exemptions         []Exempt // of the files, then those of Consul's KV
	CutOnClose         bool     // running connections end when a sidecar's port closes
	CloseDelay         time.Duration
	PollInterval       time.Duration
	CheckInterval      time.Duration
	LogLevel           slog.Level
	LogFormat          LogFormat
	StateDir           string // where state is kept over a restart of the host; empty keeps none
	// KVPrefix is where settings for a fleet lie in Consul's KV, with "/" at its end; empty: they are not asked for.
	KVPrefix string
	// KVMayEnforce lets these settings decide what is closed and what leaves discovery, too.
	KVMayEnforce bool

	Firewall Firewall
	Consul   Consul
	Report   Report
	Metrics  Metrics

	// Files are the files that were read, in the order of reading.
	Files []string

	// origins tells, by key, where each value came from: one for a single value, one an element for a list. Keys
	// that have their default are absent.
	origins map[string][]origin

	// broken are keys with a value that could not be read. Load fails then: what is missing is no contradiction besides.
	broken map[string]bool
	// wantTLS is CONSUL_HTTP_SSL: no later http address may undo it.
	wantTLS bool
}

// Firewall is the block "firewall".
type Firewall struct {
	Backend         Backend
	Accept          Accept
	IptablesVariant IptablesVariant
	PublishSet      SetName // of the operator's, kept equal to the open ports; zero: none
}

// Consul is the block "consul": how to reach the local agent.
type Consul struct {
	// Address is a URL: http, https or unix.
	Address            string
	Token              Secret
	TokenFile          string
	CAFile             string
	CAPath             string
	CertFile           string
	KeyFile            string
	TLSServerName      string
	InsecureSkipVerify bool
	Namespace          string // empty: not sent
	Partition          string // empty: not sent
	User               string // name or number of the user that the agent may run as, beside root; empty: "consul"
	AllowRemoteAgent   bool   // the agent may be another host's
	CatalogWakeup      bool   // changes of the catalog wake the loop
	Timeout            time.Duration
}

// Report is the block "report": hostagent's own service in Consul.
type Report struct {
	Enabled     bool
	ServiceName string
	On          ReportOn
	Status      ReportStatus // of results on an application's service, unless it is named below
	// WarningServices and CriticalServices name applications whose status differs from Status.
	WarningServices  []string
	CriticalServices []string
	Detail           ReportDetail
	// Spread is the longest time that news waits before it is written, so that the hosts of a fleet do not write all at
	// once; nil: as long as the size of the datacenter asks for.
	Spread *time.Duration
}

// Metrics is the block "metrics".
type Metrics struct {
	// Address is where metrics are served; the zero value serves none.
	Address netip.AddrPort
	// AllowNetwork lets Address be another than a loopback address.
	AllowNetwork bool
}

// Default returns the configuration of a host that sets nothing. Its Mode is empty.
func Default() *Config {
	return &Config{
		ProtectedPorts:     []PortRange{{22, 22}},
		AllowLocalBridges:  true,
		Scope:              ScopeMesh,
		Audit:              true,
		Enforce:            EnforceReport,
		QuarantineFindings: []string{findingExposedListener},
		CloseDelay:         30 * time.Second,
		PollInterval:       time.Second,
		CheckInterval:      5 * time.Second,
		LogLevel:           slog.LevelInfo,
		LogFormat:          LogText,
		StateDir:           DefaultStateDir,
		Firewall:           Firewall{Backend: BackendAuto, IptablesVariant: IptablesAuto},
		Consul:             Consul{Address: "http://127.0.0.1:8500", CatalogWakeup: true, Timeout: 5 * time.Second},
		Report:             Report{Enabled: true, ServiceName: "hostagent", On: ReportOnHostagent, Status: ReportWarning, Detail: ReportFull},
	}
}
