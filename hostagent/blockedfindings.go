// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// judgeBlocked tells of ports that the network should reach and that another firewall of the host keeps from it.
func (e *evaluation) judgeBlocked() {
	var openings, others []firewall.Block
	for _, b := range e.in.Blocked {
		switch {
		case !b.Open:
			others = append(others, b)
		case b.Protocol == firewall.TCP && e.res.Rules.Open.Has(b.Port): // as it is now
			openings = append(openings, b)
		}
	}
	var set firewall.SetName
	for _, chain := range byChain(openings) {
		set = e.openingBlocked(chain, set)
	}
	for _, service := range consulServices(&e.in.Agent, e.in.Listeners) {
		e.consulBlocked(service, others)
	}
}

// byChain puts the blocks of each chain together, in a lasting order.
func byChain(all []firewall.Block) (chains [][]firewall.Block) {
	compare := func(a, b firewall.Block) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Chain, b.Chain))
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b firewall.Block) int { return cmp.Or(compare(a, b), cmp.Compare(a.Port, b.Port)) })
	for len(all) > 0 {
		n := 1
		for n < len(all) && compare(all[0], all[n]) == 0 {
			n++
		}
		chains = append(chains, all[:n])
		all = all[n:]
	}
	return chains
}

// openingBlocked tells of one chain. It returns the set that its remedy, or one before, asks for: there can be only one.
func (e *evaluation) openingBlocked(chain []firewall.Block, set firewall.SetName) firewall.SetName {
	b := chain[0]
	var ports firewall.PortSet
	families := map[firewall.Family]bool{}
	for _, one := range chain {
		ports.Add(one.Port)
		for _, f := range one.Families {
			families[f] = true
		}
	}
	wanted := e.res.Range.Ports().Union(ports) // the whole range: which of its ports are open changes by the hour
	var fix, keep string
	if b.Tool == firewall.ToolNFT {
		fix, keep, set = e.nftRemedy(b, wanted, set)
	} else {
		fix, keep = allow(b, wanted, firewall.TCP)
		if table := b.Table; (b.Tool == firewall.ToolUFW || b.Tool == firewall.ToolIptables) && table == "filter" {
			keep += `, or set accept = "head" in hostagent's firewall block`
		}
	}
	e.find(Finding{ID: catalog.OpeningBlocked}, "ports", portsText(ports), "families", familiesText(families), "chain", chainText(b),
		"rule", b.Rule, "fix", fix, "keep", keep)
	return set
}

// nftRemedy lets what is open pass a chain of the operator's own: by a set that hostagent keeps, where that is still free.
func (e *evaluation) nftRemedy(b firewall.Block, wanted firewall.PortSet, taken firewall.SetName) (fix, keep string, set firewall.SetName) {
	place := strings.Join([]string{b.Family, shellWord(b.Table), shellWord(b.Chain)}, " ")
	table := strings.Join([]string{b.Family, shellWord(b.Table)}, " ")
	insert := "nft insert rule " + place + " tcp dport "
	set = taken
	if set == (firewall.SetName{}) {
		set = e.in.Policy.PublishSet
	}
	create := func(set string) string { return "nft add set " + table + " " + set + " '{ type inet_service; }' && " }
	switch {
	case set == (firewall.SetName{}):
		set = firewall.SetName{Family: b.Family, Table: b.Table, Set: "mesh_ports"}
		fix = create(set.Set) + insert + "@mesh_ports accept"
		return fix, fmt.Sprintf("; both in the file of the ruleset, too; and publish_set = %q in hostagent's firewall block", set.String()), set
	case set.Family == b.Family && set.Table == b.Table && b.NoSet:
		return create(set.Set) + insert + "@" + set.Set + " accept", "; both in the file of the ruleset, too", set
	case set.Family == b.Family && set.Table == b.Table:
		return insert + "@" + set.Set + " accept", "; and in the file of the ruleset, too", set
	}
	return insert + nftPorts(wanted) + " accept", "; and in the file of the ruleset, too", set
}

// consulBlocked tells of one port of Consul, by each chain that keeps it from the network where the agent has its address.
func (e *evaluation) consulBlocked(service consulService, blocked []firewall.Block) {
	family := firewall.IPv4
	if e.in.Agent.Address.Is6() {
		family = firewall.IPv6
	}
	for _, b := range blocked {
		if b.Protocol != service.protocol || b.Port != service.port || e.in.Agent.Address.IsValid() && !slices.Contains(b.Families, family) {
			continue
		}
		port := firewall.Ports(b.Port)
		fix, keep := allow(b, port, b.Protocol)
		if b.Tool == firewall.ToolNFT {
			fix = fmt.Sprintf("nft insert rule %s %s %s %s dport %d accept", b.Family, shellWord(b.Table), shellWord(b.Chain), b.Protocol, b.Port)
			keep = "; and in the file of the ruleset, too"
		}
		f := Finding{ID: catalog.ConsulPortBlocked, Port: b.Port}
		if b.Protocol == firewall.UDP {
			f.Protocol = sockets.UDP
		}
		e.find(f, "name", service.name, "port", fmt.Sprintf("%d/%s", b.Port, b.Protocol),
			"chain", chainText(b), "rule", b.Rule, "fix", fix, "keep", keep)
	}
}

// allow is the command that lets ports pass, in the words of the program whose chain it is, and what else there is to do.
func allow(b firewall.Block, ports firewall.PortSet, protocol firewall.Protocol) (fix, keep string) {
	spans := strings.Split(ports.String(), ", ")
	switch b.Tool {
	case firewall.ToolFirewalld:
		fix = "firewall-cmd --permanent"
		for _, span := range spans {
			fix += " --add-port=" + span + "/" + protocol.String()
		}
		return fix + " && firewall-cmd --reload", ""
	case firewall.ToolUFW:
		for i, span := range spans {
			spans[i] = "ufw allow " + strings.Replace(span, "-", ":", 1) + "/" + protocol.String()
		}
		return strings.Join(spans, " && "), ""
	default:
	}
	program := "iptables"
	if b.Family == "ip6" {
		program = "ip6tables"
	}
	if b.Table != "filter" {
		program += " -t " + shellWord(b.Table)
	}
	for i, span := range spans {
		spans[i] = fmt.Sprintf("%s -I %s -p %s --dport %s -j ACCEPT", program, shellWord(b.Chain), protocol, strings.Replace(span, "-", ":", 1))
	}
	return strings.Join(spans, " && "), "; and save the rules as this host does"
}

// nftPorts writes ports as a rule of nft has them.
func nftPorts(ports firewall.PortSet) string {
	text := ports.String()
	if strings.Contains(text, ",") {
		return "'{ " + text + " }'"
	}
	return text
}

func portsText(ports firewall.PortSet) string {
	if ports.Len() == 1 {
		return "port " + ports.String()
	}
	return "ports " + ports.String()
}

// familiesText says over which protocol where it is not both.
func familiesText(families map[firewall.Family]bool) string {
	switch {
	case !families[firewall.IPv6]:
		return " over IPv4"
	case !families[firewall.IPv4]:
		return " over IPv6"
	}
	return ""
}

func chainText(b firewall.Block) string {
	name := "chain " + strconv.Quote(b.Chain) + " of table " + b.Family + " " + strconv.Quote(b.Table)
	if b.Tool == firewall.ToolNFT {
		return name
	}
	return name + " (" + string(b.Tool) + ")"
}
