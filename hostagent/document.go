// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// Document is a scan as JSON. SchemaVersion grows when a field changes meaning or goes; fields may be added without.
type Document struct {
	SchemaVersion int               `json:"schema_version"`
	Version       string            `json:"hostagent_version"`
	Source        Source            `json:"source"`
	Node          string            `json:"node"`
	Datacenter    string            `json:"datacenter"`
	ConsulVersion string            `json:"consul_version"`
	SidecarRange  string            `json:"sidecar_range"`
	Openings      []DocumentOpening `json:"openings"`
	Services      []DocumentService `json:"services"`
	Findings      []DocumentFinding `json:"findings"`
	Network       []DocumentSocket  `json:"network_listeners"`
	Listeners     []DocumentSocket  `json:"listeners"`
	// Published are the ports of the host that nat rules or a container runtime's proxy pass on.
	Published []DocumentPublished `json:"published"`
	Errors    []string            `json:"errors"`
	Notes     []string            `json:"notes"`
}

// DocumentOpening is a port that guard mode opens.
type DocumentOpening struct {
	Port          uint16   `json:"port"`
	Services      []string `json:"services"`
	Registrations []string `json:"registrations"`
	Held          bool     `json:"held"`
	Predicted     bool     `json:"predicted"`
	// Kind is what is behind the port, and From who may connect in the operator's words, empty for everybody.
	Kind OpeningKind `json:"kind"`
	From []string    `json:"from"`
}

// DocumentService is a mesh service of the host.
type DocumentService struct {
	ID        string             `json:"id"`
	Name      string             `json:"name"`
	Sidecars  []DocumentSidecar  `json:"sidecars"`
	Listeners []DocumentListener `json:"listeners"`
}

// DocumentSidecar is a registered proxy of a service. Port is as registered, even where it is no port.
type DocumentSidecar struct {
	ID        string `json:"id"`
	Port      int    `json:"port"`
	Opened    bool   `json:"opened"`
	Predicted bool   `json:"predicted"`
	// Paths are the ports on which it lets others in without mTLS.
	Paths []DocumentPath `json:"exposed_paths"`
}

// DocumentPath is a port on which a sidecar says that it lets paths of its application through, or shows metrics.
type DocumentPath struct {
	Port   uint16      `json:"port"`
	Kind   OpeningKind `json:"kind"`
	Opened bool        `json:"opened"`
}

// DocumentListener is a socket.
type DocumentListener struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	Port     uint16 `json:"port"`
	UID      uint32 `json:"uid"`
	Exposed  bool   `json:"exposed"`
	V6Only   bool   `json:"v6only"`
	// Device is the name of the interface that the socket is bound to, "" for none and where it is not known, and
	// DeviceIndex its index, 0 for none.
	Device      string `json:"device"`
	DeviceIndex uint32 `json:"device_index"`
	Namespace   uint64 `json:"network_namespace"` // its inode; 0 for that of hostagent
}

// DocumentPublished is a port of the host that is passed on, and the container behind it as far as it is known.
type DocumentPublished struct {
	Port      uint16 `json:"port"`
	To        string `json:"to"`
	Container string `json:"container"`
	Runtime   string `json:"runtime"`
	Unit      string `json:"unit"`
}

// DocumentProcess is a process that holds a socket; Started is null when unknown. There are no command lines: they hold
// passwords.
type DocumentProcess struct {
	PID     int32      `json:"pid"`
	Name    string     `json:"name"`
	Exe     string     `json:"exe"`
	Started *time.Time `json:"started"`
}

// DocumentSocket is a listener with all that is known of who holds it.
type DocumentSocket struct {
	Listener  DocumentListener  `json:"listener"`
	User      string            `json:"user"`
	Unit      string            `json:"unit"`
	Container string            `json:"container"`
	Runtime   string            `json:"runtime"`
	Processes []DocumentProcess `json:"processes"`
	Guarded   bool              `json:"guarded"`
}

// DocumentFinding is a Finding with all that is known of its socket.
type DocumentFinding struct {
	ID        catalog.ID        `json:"id"`
	Severity  catalog.Severity  `json:"severity"`
	State     State             `json:"state"`
	Service   string            `json:"service"`
	ServiceID string            `json:"service_id"`
	Port      uint16            `json:"port"`
	Listener  *DocumentListener `json:"listener"`
	User      string            `json:"user"`
	Unit      string            `json:"unit"`
	Container string            `json:"container"`
	Runtime   string            `json:"runtime"`
	Processes []DocumentProcess `json:"processes"`
	ReachedAt []DocumentWay     `json:"reachable_at"`
	// Behind is where what comes for the port is passed on; null where it is not.
	Behind  *DocumentPublished `json:"behind"`
	Message string             `json:"message"`
	Remedy  string             `json:"remedy"`
	// Exemption is null where the operator has said nothing of it.
	Exemption *DocumentExemption `json:"exemption"`
}

// Document writes s for programs. No list in it is null.
func (s *Scan) Document(version string) Document {
	d := Document{
		SchemaVersion: 1, Version: version, Source: s.Source,
		Node: s.Agent.Node, Datacenter: s.Agent.Datacenter, ConsulVersion: s.Agent.Version,
		SidecarRange: s.Range.String(),
		Openings:     documentOpenings(s.Openings), Services: []DocumentService{}, Findings: documentFindings(s.Findings),
		Network: documentSockets(s.Network), Listeners: documentSockets(s.Listeners), Published: []DocumentPublished{},
		Errors: []string{}, Notes: append([]string{}, s.Notes...),
	}
	for i := range s.Published {
		d.Published = append(d.Published, *documentPublished(&s.Published[i]))
	}
	for _, err := range s.Errors {
		d.Errors = append(d.Errors, ErrorText(err))
	}
	for _, service := range s.Services {
		ds := DocumentService{ID: service.ID, Name: service.Name, Sidecars: []DocumentSidecar{}, Listeners: []DocumentListener{}}
		for _, p := range service.Sidecars {
			sidecar := DocumentSidecar{ID: p.ID, Port: p.Port, Opened: p.Opened, Predicted: p.Predicted, Paths: []DocumentPath{}}
			for _, path := range p.Paths {
				sidecar.Paths = append(sidecar.Paths, DocumentPath(path))
			}
			ds.Sidecars = append(ds.Sidecars, sidecar)
		}
		for i := range service.Listeners {
			ds.Listeners = append(ds.Listeners, *documentListener(&service.Listeners[i]))
		}
		d.Services = append(d.Services, ds)
	}
	d.nameDevices(s.Devices)
	return d
}

func documentSockets(listeners []Reachable) []DocumentSocket {
	out := make([]DocumentSocket, len(listeners))
	for i, r := range listeners {
		out[i] = DocumentSocket{Listener: *documentListener(&r.Listener), Guarded: r.Guarded}
		out[i].User, out[i].Unit, out[i].Container, out[i].Runtime, out[i].Processes = documentOwner(r.Owner)
	}
	return out
}

func documentOpenings(openings []Opening) []DocumentOpening {
	out := make([]DocumentOpening, len(openings))
	for i, o := range openings {
		out[i] = DocumentOpening{
			Port: o.Port, Services: append([]string{}, o.Services...), Registrations: append([]string{}, o.IDs...),
			Held: o.Held, Predicted: o.Predicted, Kind: cmp.Or(o.Kind, OpensMesh), From: append([]string{}, o.From...),
		}
	}
	return out
}

func documentFindings(findings []Finding) []DocumentFinding {
	out := make([]DocumentFinding, len(findings))
	for i, f := range findings {
		out[i] = documentFinding(f)
	}
	return out
}

func documentFinding(f Finding) DocumentFinding {
	d := DocumentFinding{
		ID: f.ID, Severity: f.Severity, State: f.State, Service: f.Service, ServiceID: f.ServiceID, Port: f.Port,
		Listener: documentListener(f.Listener), ReachedAt: documentWays(f.Ways), Behind: documentPublished(f.Behind), Message: f.Message, Remedy: f.Remedy,
		Exemption: documentExemption(f.Exemption, f.State != Exempt),
	}
	d.User, d.Unit, d.Container, d.Runtime, d.Processes = documentOwner(f.Owner)
	return d
}

func documentOwner(o *sockets.Owner) (user, unit, container, runtime string, processes []DocumentProcess) {
	processes = []DocumentProcess{}
	if o == nil {
		return "", "", "", "", processes
	}
	for _, p := range o.Processes {
		processes = append(processes, DocumentProcess{PID: p.PID, Name: p.Name, Exe: p.Exe, Started: when(p.Started.Truncate(time.Second))})
	}
	return o.User, o.Unit, o.Container, o.Runtime, processes
}

func documentListener(l *sockets.Listener) *DocumentListener {
	if l == nil {
		return nil
	}
	return &DocumentListener{
		Protocol: l.Protocol.String(), Address: l.Addr.Addr().String(), Port: l.Addr.Port(), UID: l.UID, Exposed: l.Exposed(),
		V6Only: l.V6Only, DeviceIndex: l.Device, Namespace: l.Namespace,
	}
}

func documentPublished(p *PublishedPort) *DocumentPublished {
	if p == nil {
		return nil
	}
	return &DocumentPublished{
		Port: p.Port, To: catalog.Clean(p.To), Container: p.Container, Runtime: p.Runtime, Unit: catalog.Clean(p.Unit),
	}
}

// PlanDocument is a plan as JSON, under the same rules as Document. Ports are texts as in "21000-21002, 21010", or "none".
type PlanDocument struct {
	SchemaVersion int                  `json:"schema_version"`
	Version       string               `json:"hostagent_version"`
	Source        Source               `json:"source"`
	Mode          Mode                 `json:"mode"`
	Node          string               `json:"node"`
	Datacenter    string               `json:"datacenter"`
	SidecarRange  string               `json:"sidecar_range"`
	Opens         []DocumentOpening    `json:"opens"`
	Keeps         []DocumentOpening    `json:"keeps"`
	Closes        string               `json:"closes"`
	Later         string               `json:"closes_later"`
	Releases      string               `json:"releases"`
	AllowFrom     []string             `json:"allow_from"`
	Sources       int                  `json:"sources"`
	PathsFrom     []string             `json:"exposed_paths_from"`
	Cuts          []DocumentCut        `json:"cuts"`
	Quarantined   []DocumentQuarantine `json:"quarantined"`
	Firewall      []string             `json:"firewall"`
	Findings      []DocumentFinding    `json:"findings"`
	Errors        []string             `json:"errors"`
	Notes         []string             `json:"notes"`
}

// DocumentCut is a port that guard mode would cut off: Listener is null where only nat rules are behind it, GoesTo where
// they send it. Connections is -1 where they cannot be counted.
type DocumentCut struct {
	Port        uint16            `json:"port"`
	Listener    *DocumentListener `json:"listener"`
	GoesTo      string            `json:"goes_to"`
	User        string            `json:"user"`
	Unit        string            `json:"unit"`
	Container   string            `json:"container"`
	Runtime     string            `json:"runtime"`
	Processes   []DocumentProcess `json:"processes"`
	Connections int               `json:"connections"`
	Outside     bool              `json:"outside_allow_from"`
	OutsidePath bool              `json:"outside_exposed_paths_from"`
	Ends        bool              `json:"connections_end"`
	Quarantine  []string          `json:"quarantine"`
}

// DocumentQuarantine is a port that is closed because applications are exposed on it. Services are their names; Held tells
// that no registration asks for it at the moment.
type DocumentQuarantine struct {
	Port     uint16   `json:"port"`
	Services []string `json:"services"`
	Held     bool     `json:"held"`
}

func documentQuarantine(quarantined []Quarantined) []DocumentQuarantine {
	out := make([]DocumentQuarantine, len(quarantined))
	for i, q := range quarantined {
		out[i] = DocumentQuarantine{Port: q.Port, Services: append([]string{}, q.Services...), Held: q.Held}
	}
	return out
}

// Document writes p for programs. No list in it is null.
func (p *Plan) Document(version string) PlanDocument {
	scan := p.Scan.Document(version)
	d := PlanDocument{
		SchemaVersion: 1, Version: version, Source: scan.Source, Mode: p.Mode, Node: scan.Node, Datacenter: scan.Datacenter,
		SidecarRange: scan.SidecarRange, Opens: documentOpenings(p.Opens), Keeps: documentOpenings(p.Keeps),
		Closes: p.Closes.String(), Later: p.Later.String(), Releases: p.Releases.String(), AllowFrom: append([]string{}, p.AllowFrom...), Sources: len(p.Rules.AllowFrom),
		PathsFrom: append([]string{}, p.ExposedPathsFrom...),
		Cuts:      []DocumentCut{}, Quarantined: documentQuarantine(p.Quarantined), Firewall: append([]string{}, p.Changes.Lines()...), Findings: documentFindings(p.RangeFindings()),
		Errors: scan.Errors, Notes: scan.Notes,
	}
	for _, c := range p.Cuts {
		cut := DocumentCut{
			Port: c.Port, Listener: documentListener(c.Listener), GoesTo: c.GoesTo, Connections: c.Connections, Outside: c.Outside && !c.Path, OutsidePath: c.Path,
			Ends: c.Ends, Quarantine: append([]string{}, c.For...),
		}
		cut.User, cut.Unit, cut.Container, cut.Runtime, cut.Processes = documentOwner(c.Owner)
		nameDevice(p.Devices, cut.Listener)
		d.Cuts = append(d.Cuts, cut)
	}
	nameDevices(p.Devices, d.Findings)
	return d
}

func prefixTexts(prefixes []netip.Prefix) []string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return texts
}
