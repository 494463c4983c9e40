// SPDX-License-Identifier: MPL-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Validate checks the whole configuration, after files, environment and flags: each value once more, since fields may
// have been set by hand, and what values say together. It changes nothing. An empty Mode passes: only guarding and
// observing need one. The error is an Errors.
func (c *Config) Validate() error {
	var problems Errors
	for _, s := range settings() {
		for _, wrong := range s.check(c) {
			problems = append(problems, c.where(s.name, wrong.index).problem(s.name, wrong.err.Error()))
		}
	}
	problems = append(problems, c.checkExemptions()...)
	return append(problems, c.contradictions()...).sorted()
}

// portList is one key that names ports.
type portList struct {
	key    string
	ranges []PortRange
}

// contradictions returns what is wrong between values that are right by themselves.
func (c *Config) contradictions() Errors {
	var problems Errors
	sidecars := portList{"sidecar_range", nil}
	if c.SidecarRange.Size() > 0 {
		sidecars.ranges = []PortRange{c.SidecarRange}
	}
	extra := portList{"extra_ports", c.ExtraPorts}
	protected := portList{"protected_ports", c.ProtectedPorts}
	guard := portList{"guard_ports", c.GuardPorts}

	quarantine := portList{"quarantine_ports", c.QuarantinePorts}

	for _, list := range []portList{extra, protected, guard, quarantine} {
		problems = append(problems, c.overlapsWithin(list)...)
	}
	for _, list := range []portList{sidecars, extra, guard, quarantine} {
		problems = append(problems, c.overlapsBetween(list, protected, func(r, _ PortRange, port uint16) string {
			return fmt.Sprintf("%s %q holds port %d, which protected_ports protects", r.noun(), r, port)
		})...)
	}
	problems = append(problems, c.overlapsBetween(extra, sidecars, func(r, s PortRange, _ uint16) string {
		return fmt.Sprintf("%s %q overlaps sidecar_range %q, whose ports need no entry", r.noun(), r, s)
	})...)
	problems = append(problems, c.contradictionsInFirewall()...)
	problems = append(problems, c.contradictionsInExemptions()...)
	if address := c.Metrics.Address; address.IsValid() && !address.Addr().Unmap().IsLoopback() && !c.Metrics.AllowNetwork {
		problems = append(problems, c.where("metrics.address", 0).problem("metrics.address", fmt.Sprintf(
			"%q is no loopback address: whoever reaches it could read the names of this host's services; add allow_network = true to mean it", address)))
	}
	return append(problems, c.contradictionsInConsul()...)
}

// ascending returns the indexes of the ranges of list, those with lower ports first.
func (list portList) ascending() []int {
	order := make([]int, len(list.ranges))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(list.ranges[a].First, list.ranges[b].First) })
	return order
}

// overlapsWithin finds ranges of one list that share ports, the later in the list blamed. Each range is compared only
// with the one below it that reaches furthest, which keeps a hostile list of a hundred thousand ranges cheap.
func (c *Config) overlapsWithin(list portList) Errors {
	var problems Errors
	furthest := -1
	for _, i := range list.ascending() {
		if furthest >= 0 && list.ranges[i].First <= list.ranges[furthest].Last {
			first, second := min(i, furthest), max(i, furthest)
			from := c.where(list.key, second)
			problems = append(problems, from.problem(list.key, fmt.Sprintf("%s %q overlaps %q%s",
				list.ranges[second].noun(), list.ranges[second], list.ranges[first],
				c.where(list.key, first).seenFrom(from))))
		}
		if furthest < 0 || list.ranges[i].Last > list.ranges[furthest].Last {
			furthest = i
		}
	}
	return problems
}

// overlapsBetween reports, for each range of list, the lowest port that other holds too.
func (c *Config) overlapsBetween(list, other portList, say func(r, other PortRange, port uint16) string) Errors {
	type holding struct{ port, index int }
	var held []holding // ascending, each port once
	next := 0
	for _, i := range other.ascending() {
		for next = max(next, int(other.ranges[i].First)); next <= int(other.ranges[i].Last); next++ {
			held = append(held, holding{next, i})
		}
	}
	var problems Errors
	for i, r := range list.ranges {
		at, _ := slices.BinarySearchFunc(held, int(r.First), func(h holding, port int) int { return h.port - port })
		if at == len(held) || held[at].port > int(r.Last) {
			continue
		}
		from := c.where(list.key, i)
		text := say(r, other.ranges[held[at].index], uint16(held[at].port))
		place := c.where(other.key, held[at].index).seenFrom(from)
		problems = append(problems, from.problem(list.key, text+place))
	}
	return problems
}

func (c *Config) contradictionsInFirewall() Errors {
	var problems Errors
	if c.Enforce == EnforceQuarantine && len(c.QuarantinePorts) == 0 && !c.broken["quarantine_ports"] {
		problems = append(problems, c.where("enforce", 0).problem("enforce",
			`"quarantine" closes only ports that quarantine_ports lists, and it lists none`))
	}
	if c.Firewall.Backend == BackendNFTables && c.Firewall.Accept.Chain != "" {
		from := c.where("firewall.accept", 0)
		problems = append(problems, from.problem("firewall.accept", fmt.Sprintf(
			"chain %s is one of iptables, but backend is \"nftables\"; name a set of your own in publish_set instead%s",
			quote(c.Firewall.Accept.Chain), c.where("firewall.backend", 0).seenFrom(from))))
	}
	return problems
}

func (c *Config) contradictionsInConsul() Errors {
	var problems Errors
	blame := func(key, text, other string) {
		from := c.where(key, 0)
		place := ""
		if other != "" {
			place = c.where(other, 0).seenFrom(from)
		}
		problems = append(problems, from.problem(key, text+place))
	}
	if c.Consul.Token != "" && c.Consul.TokenFile != "" {
		blame("consul.token_file", "a token is set too; keep one of them", "consul.token")
	}
	if c.Consul.CertFile != "" && c.Consul.KeyFile == "" {
		blame("consul.cert_file", "needs consul.key_file too", "")
	}
	if c.Consul.KeyFile != "" && c.Consul.CertFile == "" {
		blame("consul.key_file", "needs consul.cert_file too", "")
	}
	for i, name := range c.Report.CriticalServices {
		if j := slices.Index(c.Report.WarningServices, name); j >= 0 {
			key, other := "report.critical_services", "report.warning_services"
			from, earlier := c.where(key, i), c.where(other, j)
			if earlier.layer == layerKV { // blamed before a file: what is wrong is that it was put under this one
				key, other, from, earlier = other, key, earlier, from
			}
			problems = append(problems, from.problem(key,
				quote(name)+" stands in "+other+" too; keep one of them"+earlier.seenFrom(from)))
		}
	}
	if c.wantTLS && strings.HasPrefix(c.Consul.Address, "unix://") {
		blame("consul.address", fmt.Sprintf("%s is a unix socket, but CONSUL_HTTP_SSL asks for TLS", quote(c.Consul.Address)), "")
	}
	return problems
}
