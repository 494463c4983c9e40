// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// drift says how the table that was seen differs from v, which it was when it was left.
func (v *nativeView) drift(seen *nativeView) []string {
	switch {
	case !seen.exists && !v.exists:
		return nil
	case !seen.exists:
		return []string{"table " + nativeTitle + " was gone"}
	}
	var drift []string
	if changed := (seen.flags ^ v.flags) &^ (nftOwner | nftPersist); changed != 0 {
		drift = append(drift, "table "+nativeTitle+" had other flags")
	}
	applied, have := v.ruleset(), seen.ruleset()
	now := &holding{have: &have}
	for i, name := range nativeSets() {
		to, from := v.set(name), seen.set(name)
		switch {
		case from == nil:
			now.missing = append(now.missing, ourSets()[i])
		case to != nil && !from.holds(to):
			drift = append(drift, "set "+nativePrefix+name+" was of another kind, or had members that are none of ours")
		}
	}
	for _, text := range setDrift(&applied, now) {
		drift = append(drift, strings.Replace(text, "set hostagent-", "set "+nativePrefix, 1))
	}
	return append(drift, v.structureDrift(seen)...)
}

// ruleset is what v's sets hold.
func (v *nativeView) ruleset() Ruleset {
	var r Ruleset
	for i := range v.sets {
		s := &v.sets[i]
		switch s.name {
		case "guard":
			r.Guard = s.ports
		case "open":
			r.Open = s.ports
		case "cut":
			r.Cut = s.ports
		case "paths":
			r.Paths = s.ports
		case "from4", "from6":
			r.AllowFrom = append(r.AllowFrom, networksOf(s.runs)...)
		case "paths4", "paths6":
			r.PathsFrom = append(r.PathsFrom, networksOf(s.runs)...)
		}
	}
	slices.SortFunc(r.AllowFrom, netip.Prefix.Compare)
	slices.SortFunc(r.PathsFrom, netip.Prefix.Compare)
	return r
}

// structureDrift says which chains, and which things of others, differ in seen.
func (v *nativeView) structureDrift(seen *nativeView) []string {
	var drift []string
	for i := range v.chains {
		c := seen.chain(v.chains[i].name)
		switch {
		case c == nil:
			drift = append(drift, fmt.Sprintf("%s: chain %s was gone", nativeTitle, v.chains[i].name))
		case !c.same(&v.chains[i]):
			drift = append(drift, fmt.Sprintf("%s: chain %s had changed", nativeTitle, c.name))
		}
	}
	for i := range seen.chains {
		if v.chain(seen.chains[i].name) == nil {
			drift = append(drift, fmt.Sprintf("%s: chain %s had appeared", nativeTitle, seen.chains[i].name))
		}
	}
	for i := range seen.sets {
		if name := seen.sets[i].name; !slices.Contains(nativeSets(), name) {
			drift = append(drift, fmt.Sprintf("%s: set %s had appeared", nativeTitle, name))
		}
	}
	if others := seen.others(); others != 0 {
		drift = append(drift, fmt.Sprintf("%s: %d other objects had appeared", nativeTitle, others))
	}
	return drift
}
