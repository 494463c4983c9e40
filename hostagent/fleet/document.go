// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"fmt"
	"net/netip"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// Document is a Report as JSON. SchemaVersion grows when a field changes meaning or goes; fields may be added without.
type Document struct {
	SchemaVersion int    `json:"schema_version"`
	Version       string `json:"hostagent_version"` // of the program that writes it
	Datacenter    string `json:"datacenter"`
	// Service is the application that was asked for, "" for all hosts.
	Service string          `json:"service"`
	Summary DocumentSummary `json:"summary"`
	Hosts   []DocumentHost  `json:"hosts"` // the worst first
}

// DocumentSummary is a Summary.
type DocumentSummary struct {
	Hosts       int `json:"hosts"`
	Runs        int `json:"runs"`
	Silent      int `json:"silent"`
	Missing     int `json:"missing"`
	Stopped     int `json:"stopped"`
	Unprotected int `json:"missing_with_sidecars"`
	Others      int `json:"other_nodes"`
	Critical    int `json:"critical"`
	Warning     int `json:"warning"`
	Info        int `json:"info"`
	Mitigated   int `json:"mitigated"`
	Exempt      int `json:"exempt"`
	More        int `json:"more"`
}

// DocumentHost is a Host. What it does not tell is "", 0 or null.
type DocumentHost struct {
	Node    string `json:"node"`
	NodeID  string `json:"node_id"`
	Address string `json:"address"`
	Alive   bool   `json:"alive"`
	State   State  `json:"state"`
	Says    string `json:"says"`
	// Worst is the severity of the worst that is to be said of the host, "" for nothing.
	Worst        string `json:"worst"`
	Version      string `json:"version"` // of its hostagent
	Mode         string `json:"mode"`
	Enforce      string `json:"enforce"`
	SidecarRange string `json:"sidecar_range"` // "none" where it is disabled or not told
	RangeCells   string `json:"range_cells"`
	// Checklist is the score of the production checklist, null where there is none.
	Checklist *audit.DocumentScore `json:"checklist"`
	Sidecars  int                  `json:"sidecars"`
	Checks    []DocumentCheck      `json:"checks"`
	Services  []DocumentService    `json:"services"`
	Findings  []DocumentFinding    `json:"findings"` // those of services, too
	More      int                  `json:"more"`
}

// DocumentCheck is a Check.
type DocumentCheck struct {
	Key    string        `json:"key"`
	Name   string        `json:"name"`
	Status consul.Status `json:"status"`
	Output string        `json:"output"`
}

// DocumentService is a Service. Its findings are the host's of that service.
type DocumentService struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Status   consul.Status     `json:"status"`
	Told     bool              `json:"told"`
	Says     string            `json:"says"`
	Sidecars []DocumentSidecar `json:"sidecars"`
	More     int               `json:"more_sidecars"`
	Loopback []string          `json:"loopback_listeners"`
}

// DocumentSidecar is a Sidecar.
type DocumentSidecar struct {
	ID    string   `json:"id"`
	Port  int      `json:"port"`
	Says  string   `json:"says"`
	Open  bool     `json:"open"`
	Paths []string `json:"exposed_paths"`
}

// DocumentFinding is a Finding.
type DocumentFinding struct {
	ID        catalog.ID       `json:"id"`
	Severity  catalog.Severity `json:"severity"`
	State     string           `json:"state"`
	Service   string           `json:"service"`
	ServiceID string           `json:"service_id"`
	Listener  string           `json:"listener"`
	Message   string           `json:"message"`
	Who       string           `json:"who"`
	Remedy    string           `json:"remedy"`
	Exemption string           `json:"exemption"`
}

// Document writes r for programs. No list in it is null.
func (r *Report) Document(version string) Document {
	d := Document{
		SchemaVersion: 1, Version: version, Datacenter: r.Datacenter, Service: r.Service,
		Summary: DocumentSummary(r.Summary()), Hosts: make([]DocumentHost, len(r.Hosts)),
	}
	for i := range r.Hosts {
		d.Hosts[i] = r.Hosts[i].document()
	}
	return d
}

func (h *Host) document() DocumentHost {
	d := DocumentHost{
		Node: h.Node, NodeID: h.NodeID, Address: addressText(h.Address), Alive: h.Alive, State: h.State, Says: h.Says,
		Version: h.Self.Version, Mode: h.Self.Mode, Enforce: h.Self.Enforce, SidecarRange: h.Self.Range(), RangeCells: h.Self.Cells,
		Sidecars: h.Sidecars, More: h.More,
		Checks: make([]DocumentCheck, len(h.Checks)), Services: make([]DocumentService, len(h.Services)),
		Findings: make([]DocumentFinding, len(h.Findings)),
	}
	if severity, says := h.Worst().Severity(); says {
		d.Worst = severity.String()
	}
	if h.Self.Score != nil {
		score := h.Self.Score.Document()
		d.Checklist = &score
	}
	for i, c := range h.Checks {
		d.Checks[i] = DocumentCheck(c)
	}
	for i := range h.Services {
		d.Services[i] = h.Services[i].document()
	}
	for i, f := range h.Findings {
		d.Findings[i] = DocumentFinding{
			ID: f.ID, Severity: f.Severity, State: f.State, Service: f.Service, ServiceID: f.ServiceID, Listener: f.Where,
			Message: f.Message, Who: f.Who, Remedy: f.Remedy, Exemption: f.Exemption,
		}
	}
	return d
}

func (s *Service) document() DocumentService {
	d := DocumentService{
		ID: s.ID, Name: s.Name, Status: s.Status, Told: s.Told, Says: s.Says, More: s.More,
		Sidecars: make([]DocumentSidecar, len(s.Sidecars)), Loopback: append([]string{}, s.Loopback...),
	}
	for i, p := range s.Sidecars {
		d.Sidecars[i] = DocumentSidecar{ID: p.ID, Port: p.Port, Says: p.Says, Open: p.Open, Paths: append([]string{}, p.Paths...)}
	}
	return d
}

// Range is the sidecar range as "21000-21255", or "none" where it is disabled or not told.
func (s *Self) Range() string {
	if s.First == 0 {
		return noRange
	}
	return fmt.Sprintf("%d-%d", s.First, s.Last)
}

func addressText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return clean(addr.String())
}
