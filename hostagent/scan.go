// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// Scan is one pass without its second half: what was found, and what could not be looked at.
type Scan struct {
	Result
	Source Source
	Agent  consul.Agent
	Mode   Mode
	// AllowFrom is who may connect to open ports in the operator's words: "cluster", "10.0.0.0/8"; empty for everybody. Who
	// that is in fact stands in Rules.
	AllowFrom []string
	// ExposedPathsFrom is who may connect to exposed paths in the operator's words; empty for nobody.
	ExposedPathsFrom []string
	// Network is who listens where the network can reach it, in the order of List; only with SourceNone.
	Network []Reachable
	// Listeners are all of the host, in the order of List, and behind them those of Namespaces; only with Parts.All.
	Listeners []Reachable
	// Namespaces are the other network namespaces of the host, by ID.
	Namespaces []sockets.Namespace
	// Errors are why registrations are not known, or not all of them.
	Errors []error
	// Notes say what could not be seen and what would show it, one sentence each.
	Notes []string

	seen           sight // for an audit
	listeners      []sockets.Listener
	published      []firewall.Published
	standing       standing
	firewallErr    error       // why what the kernel holds is not known
	unmatched      []Exemption // of the policy
	wholeElsewhere bool        // nothing of other network namespaces is missing
	factsErr       error       // why the agent's facts are not known
	membersErr     error       // why the members are not known, though the operator lets them in
	bridgesErr     error       // why the host's bridges are not known, though the operator lets them in
}

// Looked is how many listeners of the host's own network namespace were looked at.
func (s *Scan) Looked() int { return len(s.listeners) }

// Reachable is a listener and who holds it.
type Reachable struct {
	Listener sockets.Listener
	Owner    *sockets.Owner // nil when unknown
	Guarded  bool           // hostagent's guard keeps the network from it
}

const maxNote = 600 // runes

func (s *Scan) note(format string, args ...any) {
	s.Notes = append(s.Notes, catalog.CleanTo(fmt.Sprintf(format, args...), maxNote))
}

// Look makes one pass that changes nothing. Without an agent that answers it still tells who listens where the network
// can reach it. It fails only where it could not look at the sockets; the rest is in Errors and Notes.
func Look(ctx context.Context, parts Parts) (*Scan, error) {
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	scan := &Scan{Mode: parts.Policy.Mode, Notes: slices.Clone(parts.Notes)}
	in := Input{Source: cmp.Or(parts.Source, SourceAgent), Settled: true, PreviousRange: DefaultSidecarRange(), Today: dayOf(time.Now()), Policy: parts.Policy}
	// The kernel answers all of these at the same time.
	listen := begin(func() ([]sockets.Listener, error) { return parts.Listen(ctx) })
	elsewhere := begin(func() (sockets.Spaces, error) { return parts.lookElsewhere(ctx) })
	host := begin(func() (*Host, error) { return parts.lookAtHost(ctx), nil })
	scan.register(ctx, parts, &in)
	var err error
	if in.Listeners, err = listen(); err != nil {
		return nil, err
	}
	scan.listeners = in.Listeners
	scan.takeElsewhere(elsewhere, &in)
	scan.accept(ctx, parts, &in)
	scan.askSources(ctx, parts, &in)
	scan.lookAtFirewall(ctx, parts, &in)
	if in.Host, _ = host(); in.Host != nil {
		scan.published = in.Host.Published
		for _, text := range in.Host.Notes {
			scan.note("%s", text)
		}
	}
	scan.lookAtBlocked(ctx, parts, &in)
	scan.probe(ctx, parts, &in)
	incomplete := scan.evaluate(ctx, parts, &in)
	scan.seen = sight{
		policy: parts.Policy, agent: in.Agent, result: &scan.Result, registrations: in.Registrations, listeners: in.Listeners, host: in.Host,
		enforced: scan.standing.enforced, open: scan.standing.open, firewallErr: scan.firewallErr, blocked: parts.Blocked, hidden: incomplete,
	}
	if parts.Owners == nil {
		scan.seen.hidden = cmp.Or(incomplete, notLookedUp)
	}
	if in.Source == SourceNone {
		scan.seen.unregistered = cmp.Or(errors.Join(scan.Errors...), errNoAgent)
	}
	scan.unmatched = unmatched(parts.Policy.Exemptions, scan.Findings)
	if in.Source == SourceNone {
		incomplete = cmp.Or(scan.reachable(ctx, parts), incomplete)
	}
	if incomplete != "" {
		scan.note("%s", incomplete)
	}
	for _, text := range scan.Unprobed {
		scan.note("%s", text)
	}
	return scan, nil
}

// begin runs f beside its caller, and returns what waits for its answer.
func begin[T any](f func() (T, error)) (wait func() (T, error)) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := f()
		answers <- answer{value, err}
	}()
	return func() (T, error) {
		a := <-answers
		return a.value, a.err
	}
}

// lookAtHost looks at the host, where that can be done.
func (p *Parts) lookAtHost(ctx context.Context) *Host {
	if p.Host == nil {
		return nil
	}
	return p.Host(ctx)
}

// register asks for registrations and for the agent's facts.
func (s *Scan) register(ctx context.Context, parts Parts, in *Input) {
	answer, err := parts.Registry.Services(ctx)
	tooOld := consul.KindOf(err) == consul.KindTooOld
	switch {
	case err == nil:
	case tooOld: // all the same a scan shows what it tells
		s.note("services may be missing: %v", err)
	default:
		s.Errors = append(s.Errors, err)
		in.Trouble, in.Source = agentTrouble(err), SourceNone
	}
	s.Source = in.Source
	in.Registrations = answer.Registrations
	if in.Agent, err = parts.Registry.Agent(ctx); err != nil && in.Source != SourceNone && in.Policy.SidecarRange == nil {
		s.note("the sidecar range is assumed: %v", err)
		s.factsErr = err
	}
	s.Agent = in.Agent
	if err := in.Agent.TooOld(); err != nil && !tooOld && in.Source != SourceNone {
		s.note("services may be missing: %v", err)
	}
}

// askSources asks who may connect, where that is limited.
func (s *Scan) askSources(ctx context.Context, parts Parts, in *Input) {
	policy := &parts.Policy
	s.AllowFrom = sourceTexts(policy.AllowCluster, policy.AllowFrom)
	s.ExposedPathsFrom = sourceTexts(policy.ExposedPathsCluster, policy.ExposedPathsFrom)
	if policy.AllowCluster || policy.ExposedPathsCluster {
		if in.Members, s.membersErr = parts.members(ctx, in.Agent.Datacenter); s.membersErr != nil {
			s.note("%v", s.membersErr)
		}
		in.PathMembers = in.Members
	}
	if policy.limits() && parts.Networks != nil {
		var err error
		if in.Networks, err = parts.Networks(ctx); err != nil {
			s.note("who may connect is not known in full: %v", err)
			if policy.AllowBridges {
				s.bridgesErr = err
			}
		}
	}
}

// lookAtFirewall finds out what the kernel keeps the network from.
func (s *Scan) lookAtFirewall(ctx context.Context, parts Parts, in *Input) {
	if parts.Firewall == nil {
		s.firewallErr = errNoFirewall
		s.note("the firewall was not looked at: run as root to see which ports it holds")
		return
	}
	state, err := parts.Firewall.Show(ctx)
	if err != nil {
		s.firewallErr = err
		s.note("the firewall was not looked at: %v", err)
		return
	}
	s.standing = standingOf(state)
	in.Enforced = s.standing.enforced
	earlier := newMemory()
	earlier.adoptCut(state.Guard(), state.Open().Union(s.standing.paths), state.Cut())
	in.WasOpen, in.Quarantined = earlier.wasOpen, earlier.quarantined()
}

// reachable lists who listens where the network can reach it, and returns what kept owners out of sight.
func (s *Scan) reachable(ctx context.Context, parts Parts) (incomplete string) {
	if parts.All {
		for _, r := range s.Listeners {
			if r.Listener.Exposed() && r.Listener.Namespace == 0 {
				s.Network = append(s.Network, r)
			}
		}
		return ""
	}
	var exposed []sockets.Listener
	for _, l := range s.listeners {
		if l.Exposed() {
			exposed = append(exposed, l)
		}
	}
	owners, incomplete := lookup(ctx, parts.Owners, exposed)
	s.Network = s.withOwners(exposed, owners)
	return incomplete
}
