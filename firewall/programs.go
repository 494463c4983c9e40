// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// newXtables finds the programs, and the variant where it is not given and one is to be used.
func newXtables(ctx context.Context, opts Options, rivals *others) *xtables {
	x := &xtables{name: func() string { return "iptables" }, verifyEvery: opts.VerifyEvery, listEvery: time.Minute, runs: &programs{}, rivals: rivals}
	x.unusable = probeSets()
	x.noSets = x.unusable != nil
	found, families := x.find(ctx, opts)
	x.tools, x.others = found[VariantNFT], found[VariantLegacy]
	if opts.Backend == BackendNFTables || x.unusable != nil {
		return x
	}
	variant, err := chooseVariant(ctx, opts.Variant, found)
	if err != nil {
		x.unusable = err
		return x
	}
	x.tools, x.others = found[variant], found[variant.other()]
	if len(x.tools) < len(families) {
		x.unusable = missingTools(variant, families, x.tools)
		return x
	}
	x.name = sync.OnceValue(func() string { return nameOf(x.tools[0]) })
	return x
}

// nameOf is a variant and its version for people. It starts a program.
func nameOf(t *tool) string {
	name := "iptables-" + string(t.variant)
	ctx, cancel := context.WithTimeout(context.Background(), nameTimeout)
	defer cancel()
	if _, version, _ := askVersion(ctx, t.command); version != "" {
		name += " " + version
	}
	return name + " + ipset"
}

// find looks for the programs of both variants, and returns also the families that the host has.
func (x *xtables) find(ctx context.Context, opts Options) (map[Variant][]*tool, []Family) {
	families := []Family{IPv4, IPv6}
	if !ipv6Present("/proc") {
		families = families[:1]
		x.notes = append(x.notes, "IPv6 is disabled on this host: only IPv4 is guarded")
	}
	found := map[Variant][]*tool{}
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		if v == VariantNFT {
			if _, err := nftGeneration(); err != nil {
				continue // this kernel has no nf_tables, so nothing can be in it
			}
		}
		if v == VariantLegacy && opts.Variant != VariantLegacy && !legacyVisible() {
			x.notes = append(x.notes, "rules of iptables-legacy cannot be seen by this user: taken for none")
			continue
		}
		for _, family := range families {
			if t := findTool(ctx, v, family, opts.LockTimeout, x.runs); t != nil {
				found[v] = append(found[v], t)
			}
		}
	}
	return found, families
}

// ipv6Present tells whether the kernel speaks IPv6. Either sign will do: a service may see only a part of /proc, and to
// take IPv6 for absent would leave it unguarded.
func ipv6Present(proc string) bool {
	for _, name := range []string{"thread-self/net/if_inet6", "sys/net/ipv6"} {
		if _, err := os.Stat(filepath.Join(proc, name)); err == nil {
			return true
		}
	}
	return false
}

// missingTools says which family's programs are not there.
func missingTools(variant Variant, families []Family, have []*tool) error {
	missing := families[0]
	if len(have) > 0 && have[0].family == missing {
		missing = families[1]
	}
	name := missing.program()
	return fmt.Errorf("cannot find %s, %s-save and %s-restore of variant %s: %w "+
		"(install the iptables package; variant nft also needs kernel module nf_tables)",
		name, name, name, variant, ErrMissingTool)
}

// chooseVariant returns the wanted variant, or the one that the host's own rules are in. Where there are none, or as many
// in both, it is whatever the program called iptables is.
func chooseVariant(ctx context.Context, wanted Variant, found map[Variant][]*tool) (Variant, error) {
	switch wanted {
	case VariantNFT, VariantLegacy:
		return wanted, nil
	case VariantAuto, "":
	default:
		return "", fmt.Errorf("cannot use iptables variant %q: it is one of auto, nft and legacy", wanted)
	}
	if len(found[VariantNFT]) == 0 && len(found[VariantLegacy]) == 0 {
		return "", fmt.Errorf("cannot find %s, neither of variant nft nor of legacy: %w (install the iptables package)",
			IPv4.program(), ErrMissingTool)
	}
	if len(found[VariantNFT]) == 0 {
		return VariantLegacy, nil
	}
	if len(found[VariantLegacy]) == 0 {
		return VariantNFT, nil
	}
	count := map[Variant]int{}
	for variant, tools := range found {
		for _, t := range tools {
			tables, err := t.listAll(ctx)
			if err != nil {
				return "", fmt.Errorf("cannot choose the iptables variant: %w", err)
			}
			for _, table := range tables {
				count[variant] += table.foreign
			}
		}
	}
	switch nft, legacy := count[VariantNFT], count[VariantLegacy]; {
	case nft > legacy:
		return VariantNFT, nil
	case legacy > nft:
		return VariantLegacy, nil
	}
	if plain := lookPath(IPv4.program()); plain != "" {
		return plainVariant(ctx, plain)
	}
	return VariantNFT, nil
}

// nameTimeout bounds the wait for a program that tells its version.
const nameTimeout = 5 * time.Second
