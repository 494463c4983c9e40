// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// sourceSet is a set of sources, its name and those of r that it holds.
type sourceSet struct {
	name    string
	sources []netip.Prefix
}

// sourceSets are the sets of sources, with what r, whose sources are canonical, has for them.
func (r *Ruleset) sourceSets() []sourceSet {
	from, paths := byFamily(r.AllowFrom), byFamily(r.PathsFrom)
	return []sourceSet{{from4Set, from[0]}, {from6Set, from[1]}, {paths4Set, paths[0]}, {paths6Set, paths[1]}}
}

// fromSet is the name of the family's set of sources.
func (f Family) fromSet() string {
	if f == IPv6 {
		return from6Set
	}
	return from4Set
}

// pathsSet is the name of the family's set of sources of exposed paths.
func (f Family) pathsSet() string {
	if f == IPv6 {
		return paths6Set
	}
	return paths4Set
}

// canonicalSources returns sources as the sets hold them: without host bits, sorted, IPv4 before IPv6, each once. A
// hash:net cannot hold a network of no bits, so that stands there as its two halves.
func canonicalSources(given []netip.Prefix) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, source := range given {
		masked := source.Masked()
		if !masked.IsValid() || masked.Addr().Is4In6() {
			return nil, fmt.Errorf("cannot let %q connect: that is no IPv4 and no IPv6 network", source)
		}
		if masked.Bits() == 0 {
			upper := masked.Addr().AsSlice()
			upper[0] = 0x80
			half, _ := netip.AddrFromSlice(upper)
			all = append(all, netip.PrefixFrom(masked.Addr(), 1), netip.PrefixFrom(half, 1))
			continue
		}
		all = append(all, masked)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	all = slices.Compact(all)
	for _, sources := range byFamily(all) {
		if len(sources) > maxSources {
			return nil, fmt.Errorf("cannot let %d networks of one family connect: a set holds at most %d (write fewer, larger ones)",
				len(sources), maxSources)
		}
	}
	return all, nil
}

// byFamily divides canonical sources into those of each family.
func byFamily(sources []netip.Prefix) [2][]netip.Prefix {
	i := sort.Search(len(sources), func(i int) bool { return sources[i].Addr().Is6() })
	return [2][]netip.Prefix{sources[:i], sources[i:]}
}

// sameSources is slices.Equal for canonical sources. Nobody changes those, so what begins at one address is the same.
func sameSources(a, b []netip.Prefix) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// sourceMemo keeps the canonical form of the sources that were given last, because callers give the same ones time
// after time.
type sourceMemo struct{ given, sources []netip.Prefix }

// canonical is canonicalSources; callers must not change what it returns.
func (m *sourceMemo) canonical(given []netip.Prefix) ([]netip.Prefix, error) {
	if slices.Equal(given, m.given) {
		return m.sources, nil
	}
	sources, err := canonicalSources(given)
	if err != nil {
		return nil, err
	}
	*m = sourceMemo{slices.Clone(given), sources}
	return sources, nil
}

// minusSources returns the sources in a that are not in b; both are sorted.
func minusSources(a, b []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, source := range a {
		if _, found := slices.BinarySearchFunc(b, source, netip.Prefix.Compare); !found {
			all = append(all, source)
		}
	}
	return all
}

// mostSources is how many sources a text names; there may be thousands.
const mostSources = 8

// sourcesText lists sources, "10.0.0.0/8, 192.0.2.7 and 3 more", or "none".
func sourcesText(sources []netip.Prefix) string {
	if len(sources) == 0 {
		return "none"
	}
	var names []string
	for _, source := range sources[:min(len(sources), mostSources)] {
		names = append(names, sourceText(source))
	}
	text := strings.Join(names, ", ")
	if more := len(sources) - mostSources; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// sourceText writes a source as ipset save does: a single address without its bits.
func sourceText(source netip.Prefix) string {
	if source.IsSingleIP() {
		return source.Addr().String()
	}
	return source.String()
}

// sourceStep brings one set of sources from its members to others.
type sourceStep struct {
	set      string
	from, to []netip.Prefix
}

// run makes the change in the kernel, at one instant, and notes what was done.
func (s *sourceStep) run(changes *Changes) error {
	if err := replaceMembers(s.set, len(s.to), func() error { return addSources(fillSet, s.to) }); err != nil {
		return err
	}
	s.note(changes)
	return nil
}

// note says in changes what run would do.
func (s *sourceStep) note(changes *Changes) {
	changes.addSources(s.set, minusSources(s.to, s.from), minusSources(s.from, s.to))
}
