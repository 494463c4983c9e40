// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// The keys of checks that Evaluate knows, beside those of applications.
const (
	keyAlive    = "alive"
	keyFirewall = "firewall"
	keyAudit    = "production-checklist"
	keyService  = "service:" // see consul.ResultKey
	keyTaken    = "taken"    // which no hostagent writes

	maxTaken = 10 // checks that are named
)

// Evaluate tells what the catalog says of the hosts. It changes nothing of it, and needs no clock: whether a host is heard of
// is Consul's to say.
//
// A service that only has hostagent's name, under another id, is no hostagent: a node with nothing else is Missing. One that
// stands on a node which gossip does not know is shown all the same, as Silent.
func Evaluate(all consul.Fleet, q Query) Report {
	e := evaluation{query: q, of: map[string]*consul.FleetAgent{}, strangers: map[string]bool{}}
	r := Report{Datacenter: clean(all.Datacenter), Service: clean(q.Application)}
	for i := range all.Agents {
		if agent := &all.Agents[i]; agent.ID == q.Service {
			e.of[agent.Node] = agent
		} else {
			e.strangers[agent.Node] = true
		}
	}
	if q.Application != "" {
		e.instances = map[string][]string{}
		for i := range all.Instances {
			instance := &all.Instances[i]
			e.instances[instance.Node] = append(e.instances[instance.Node], instance.ID)
		}
	}
	seen := map[string]bool{}
	for i := range all.Nodes {
		node := &all.Nodes[i]
		if seen[node.Name] || !e.wanted(node.Name) {
			continue
		}
		seen[node.Name] = true
		if !node.Member && e.of[node.Name] == nil {
			r.Others++
			continue
		}
		r.Hosts = append(r.Hosts, e.host(node))
	}
	for i := range all.Agents {
		agent := &all.Agents[i]
		if e.of[agent.Node] != agent || seen[agent.Node] || !e.wanted(agent.Node) {
			continue
		}
		// It came between two answers of the servers: that gossip does not reach it is not known.
		r.Hosts = append(r.Hosts, e.host(&consul.FleetNode{Name: agent.Node, Member: true, Alive: true}))
	}
	sortHosts(r.Hosts)
	return r
}

// evaluation is one Evaluate under way.
type evaluation struct {
	query     Query
	of        map[string]*consul.FleetAgent // by node
	strangers map[string]bool               // nodes on which something else has hostagent's name
	instances map[string][]string           // ids of the application, by node; nil where none is asked for
}

// wanted tells whether a node is asked about.
func (e *evaluation) wanted(node string) bool { return e.instances == nil || e.instances[node] != nil }

func (e *evaluation) host(node *consul.FleetNode) Host {
	h := Host{
		Node: clean(node.Name), NodeID: clean(node.ID), Address: node.Address, Alive: node.Member && node.Alive,
		Sidecars: node.Sidecars, State: Missing,
	}
	agent := e.of[node.Name]
	if agent == nil {
		if e.strangers[node.Name] {
			h.Says = "a service of hostagent's name stands there, under another id"
		}
		return h
	}
	h.Self = ReadSelf(agent.Meta)
	h.live(e.life(agent))
	if node.TakenBy != "" {
		h.Says = fmt.Sprintf("whether gossip reaches the host is not known: service %q has taken the id of gossip's check", clean(node.TakenBy))
	}
	for i := range agent.Checks {
		e.take(&h, agent.Node, &agent.Checks[i])
	}
	if h.State == Runs && h.Says == "" && !h.tells(keyFirewall) {
		h.Says = "its results are not there: it has begun a moment ago and knows nothing yet, or somebody took them away"
	}
	if len(agent.Taken) > 0 {
		h.Checks = append(h.Checks, takenCheck(agent.Taken))
	}
	slices.SortFunc(h.Services, compareServices)
	slices.SortStableFunc(h.Findings, compareFindings)
	slices.SortStableFunc(h.Checks, func(a, b Check) int { return strings.Compare(a.Key, b.Key) })
	return h
}

// tells tells whether h has a check of that key.
func (h *Host) tells(key string) bool {
	return slices.ContainsFunc(h.Checks, func(c Check) bool { return c.Key == key })
}

// life is the life check of an agent, nil for none.
func (e *evaluation) life(agent *consul.FleetAgent) *consul.FleetCheck {
	id := e.query.Service + ":" + keyAlive
	for i := range agent.Checks {
		if agent.Checks[i].ID == id {
			return &agent.Checks[i]
		}
	}
	return nil
}

// takenCheck tells that others stand in the place of hostagent's checks. It is critical: what they hide may be.
func takenCheck(taken []consul.FleetCheck) Check {
	var places []string
	for i := range taken {
		if i == maxTaken {
			places = append(places, fmt.Sprintf("%d more", len(taken)-i))
			break
		}
		place := "the node"
		if id := taken[i].Application; id != "" {
			place = fmt.Sprintf("service %q", clean(id))
		}
		places = append(places, clean(taken[i].ID)+" stands on "+place)
	}
	return Check{Key: keyTaken, Name: "Checks of hostagent taken by others", Status: consul.Critical,
		Output: strings.Join(places, ", ") + "; what hostagent says there cannot be seen"}
}

// take takes one check over. What others have put on hostagent's service is none of ours.
func (e *evaluation) take(h *Host, node string, check *consul.FleetCheck) {
	key, ours := strings.CutPrefix(check.ID, e.query.Service+":")
	if !ours || key == "" {
		return
	}
	if strings.HasPrefix(key, keyService) {
		e.takeService(h, node, key, check)
		return
	}
	output := strings.Join(linesOf(check.Output), "\n")
	c := Check{Key: clean(key), Name: clean(check.Name), Status: statusOf(check.Status), Output: cleanLines(output)}
	switch key {
	case keyAlive, keyFirewall: // every application's
	case keyAudit:
		if h.Self.Score == nil {
			h.Self.Score = scoreIn(output)
		}
		if e.query.Application != "" {
			return
		}
	default:
		if e.query.Application != "" {
			return
		}
		p := parse(output)
		h.Findings, h.More = append(h.Findings, p.findings...), h.More+p.more
		if len(p.findings) > 0 {
			return
		}
	}
	h.Checks = append(h.Checks, c)
}

// takeService takes a check over that is about an application.
func (e *evaluation) takeService(h *Host, node, key string, check *consul.FleetCheck) {
	id := strings.TrimPrefix(key, keyService)
	if strings.Contains(id, "~") {
		id = "" // it ends in a digest
	}
	name := ""
	if e.query.Application != "" {
		if id, name = e.instanceOf(node, check.ID), e.query.Application; id == "" {
			return
		}
	}
	p := parse(check.Output)
	s := Service{
		ID: clean(id), Status: statusOf(check.Status), Told: !p.counted, Sidecars: p.sidecars, More: p.moreOf, Findings: p.findings,
	}
	said, loopback := p.subject()
	s.Loopback = loopback
	for _, candidate := range []string{name, said, id, strings.TrimPrefix(check.Name, "Listeners of ")} {
		if s.Name = clean(candidate); s.Name != "" {
			break
		}
	}
	if s.Status != consul.Passing && len(p.findings) == 0 {
		s.Says = p.head
		if p.stale {
			s.Says = staleLine + " " + p.head
		}
		if s.Says == "" {
			s.Says = joined(linesOf(check.Output))
		}
	}
	for i := range s.Findings {
		s.Findings[i].Service, s.Findings[i].ServiceID = s.Name, s.ID
	}
	slices.SortStableFunc(s.Findings, compareFindings)
	h.Services = append(h.Services, s)
	h.Findings, h.More = append(h.Findings, s.Findings...), h.More+p.more
}

// instanceOf is the id of the application's instance that the check of that id is about, "" for none.
func (e *evaluation) instanceOf(node, check string) string {
	for _, instance := range e.instances[node] {
		if consul.CheckID(e.query.Service, consul.ResultKey(instance)) == check {
			return instance
		}
	}
	return ""
}

func statusOf(s consul.Status) consul.Status {
	switch s {
	case consul.Passing, consul.Warning:
		return s
	default:
		return consul.Critical
	}
}

func clean(text string) string { return catalog.Clean(text) }

// cleanLines makes lines safe to show.
func cleanLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = catalog.CleanTo(lines[i], maxText)
	}
	return strings.Join(lines, "\n")
}
