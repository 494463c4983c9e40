// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// Scan is one pass without its second half: what was found, and what could not be looked at.
type Scan struct {
	Result
	Agent consul.Agent
	Mode  Mode
	// Notes say what could not be seen and what would show it, one sentence each.
	Notes []string
}

const maxNote = 600 // runes

// Look makes one pass that changes nothing. It fails only where it could not look at all; the rest is in Notes.
func Look(ctx context.Context, parts Parts) (*Scan, error) {
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	scan := &Scan{Mode: parts.Policy.Mode}
	note := func(format string, args ...any) {
		scan.Notes = append(scan.Notes, catalog.CleanTo(fmt.Sprintf(format, args...), maxNote))
	}
	in := Input{Settled: true, PreviousRange: DefaultSidecarRange(), Policy: parts.Policy}
	answer, err := parts.Registry.Services(ctx)
	switch {
	case consul.KindOf(err) == consul.KindFiltered:
		in.Filtered = err.Error()
	case err != nil:
		return nil, err
	}
	in.Registrations = answer.Registrations
	if in.Agent, err = parts.Registry.Agent(ctx); err != nil {
		note("the sidecar range is assumed: %v", err)
	}
	scan.Agent = in.Agent
	if in.Listeners, err = parts.Listen(ctx); err != nil {
		return nil, err
	}
	if parts.Firewall == nil {
		note("the firewall was not looked at: run as root to see which ports it holds")
	} else if state, err := parts.Firewall.Show(ctx); err != nil {
		note("the firewall was not looked at: %v", err)
	} else if guard, open := state.Guard(), state.Open(); guard.Len() > 0 {
		// Sets alone hold nothing back: that no rule is missing is what a plan for these very sets says.
		standing := firewall.Ruleset{Guard: guard, Open: open, Accept: parts.Policy.Accept, AllowFrom: parts.Policy.AllowFrom}
		if plan, err := parts.Firewall.Plan(ctx, standing); err == nil && len(plan.Rules) == 0 {
			in.Enforced = guard.Minus(open)
		}
	}
	var incomplete string
	scan.Result, incomplete = evaluateWithOwners(ctx, in, parts.Owners)
	if incomplete != "" {
		note("%s", incomplete)
	}
	return scan, nil
}

// Document is a scan as JSON. SchemaVersion grows when a field changes meaning or goes; fields may be added without.
type Document struct {
	SchemaVersion int               `json:"schema_version"`
	Version       string            `json:"hostagent_version"`
	Node          string            `json:"node"`
	Datacenter    string            `json:"datacenter"`
	ConsulVersion string            `json:"consul_version"`
	SidecarRange  string            `json:"sidecar_range"`
	Openings      []DocumentOpening `json:"openings"`
	Services      []DocumentService `json:"services"`
	Findings      []DocumentFinding `json:"findings"`
	Notes         []string          `json:"notes"`
}

// DocumentOpening is a port that guard mode opens.
type DocumentOpening struct {
	Port          uint16   `json:"port"`
	Services      []string `json:"services"`
	Registrations []string `json:"registrations"`
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
	ID     string `json:"id"`
	Port   int    `json:"port"`
	Opened bool   `json:"opened"`
}

// DocumentListener is a socket.
type DocumentListener struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	Port     uint16 `json:"port"`
	UID      uint32 `json:"uid"`
	Exposed  bool   `json:"exposed"`
}

// DocumentProcess is a process that holds a socket. There are no command lines: they hold passwords.
type DocumentProcess struct {
	PID  int32  `json:"pid"`
	Name string `json:"name"`
	Exe  string `json:"exe"`
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
	Processes []DocumentProcess `json:"processes"`
	Message   string            `json:"message"`
	Remedy    string            `json:"remedy"`
}

// Document writes s for programs. No list in it is null.
func (s *Scan) Document(version string) Document {
	d := Document{
		SchemaVersion: 1, Version: version,
		Node: s.Agent.Node, Datacenter: s.Agent.Datacenter, ConsulVersion: s.Agent.Version,
		SidecarRange: s.Range.String(),
		Openings:     []DocumentOpening{}, Services: []DocumentService{}, Findings: []DocumentFinding{},
		Notes: append([]string{}, s.Notes...),
	}
	for _, o := range s.Openings {
		d.Openings = append(d.Openings, DocumentOpening{
			Port: o.Port, Services: append([]string{}, o.Services...), Registrations: append([]string{}, o.IDs...),
		})
	}
	for _, service := range s.Services {
		ds := DocumentService{ID: service.ID, Name: service.Name, Sidecars: []DocumentSidecar{}, Listeners: []DocumentListener{}}
		for _, p := range service.Sidecars {
			ds.Sidecars = append(ds.Sidecars, DocumentSidecar(p))
		}
		for i := range service.Listeners {
			ds.Listeners = append(ds.Listeners, *documentListener(&service.Listeners[i]))
		}
		d.Services = append(d.Services, ds)
	}
	for _, f := range s.Findings {
		d.Findings = append(d.Findings, documentFinding(f))
	}
	return d
}

func documentFinding(f Finding) DocumentFinding {
	d := DocumentFinding{
		ID: f.ID, Severity: f.Severity, State: f.State, Service: f.Service, ServiceID: f.ServiceID, Port: f.Port,
		Listener: documentListener(f.Listener), Processes: []DocumentProcess{}, Message: f.Message, Remedy: f.Remedy,
	}
	if f.Owner != nil {
		d.User, d.Unit, d.Container = f.Owner.User, f.Owner.Unit, f.Owner.Container
		for _, p := range f.Owner.Processes {
			d.Processes = append(d.Processes, DocumentProcess{PID: p.PID, Name: p.Name, Exe: p.Exe})
		}
	}
	return d
}

func documentListener(l *sockets.Listener) *DocumentListener {
	if l == nil {
		return nil
	}
	return &DocumentListener{
		Protocol: l.Protocol.String(), Address: l.Addr.Addr().String(), Port: l.Addr.Port(), UID: l.UID, Exposed: l.Exposed(),
	}
}
