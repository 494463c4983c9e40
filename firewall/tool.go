// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// Variant is one of the two programs called iptables: nft keeps its rules in nf_tables, legacy in ip_tables. A host may
// have rules in both.
type Variant string

// The variants; VariantAuto is the one that the host's own rules are in.
const (
	VariantAuto   Variant = "auto"
	VariantNFT    Variant = "nft"
	VariantLegacy Variant = "legacy"
)

// other returns the variant that v is not.
func (v Variant) other() Variant {
	if v == VariantNFT {
		return VariantLegacy
	}
	return VariantNFT
}

// Family is the IP version that a table is for: "ipv4" or "ipv6".
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// program is the name of the family's plain iptables program.
func (f Family) program() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// tool is the iptables programs of one variant and family.
type tool struct {
	variant                Variant
	family                 Family
	command, save, restore string // paths
	lockTimeout            time.Duration
	runs                   *atomic.Int64 // counts the programs started
}

// findTool looks for the programs of a variant: under the variant's own names, then under the plain ones where these
// are that variant. It returns nil where there are none.
func findTool(ctx context.Context, variant Variant, family Family, lockTimeout time.Duration, runs *atomic.Int64) *tool {
	for _, name := range []string{family.program() + "-" + string(variant), family.program()} {
		t := &tool{variant: variant, family: family, lockTimeout: lockTimeout, runs: runs}
		t.command, t.save, t.restore = lookPath(name), lookPath(name+"-save"), lookPath(name+"-restore")
		if t.command == "" || t.save == "" || t.restore == "" {
			continue
		}
		if name != family.program() {
			return t
		}
		if plain, err := plainVariant(ctx, t.command); err == nil && plain == variant {
			return t
		}
	}
	return nil
}

// plainVariant asks a program called iptables which variant it is. Those before 1.8 do not say; they are legacy.
func plainVariant(ctx context.Context, command string) (Variant, error) {
	variant, _, err := askVersion(ctx, command)
	return variant, err
}

// askVersion asks an iptables program for its variant and its version, such as 1.8.9; that is empty where it says none.
func askVersion(ctx context.Context, command string) (Variant, string, error) {
	output, err := exec.CommandContext(ctx, command, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("cannot run %s --version: %w", command, err)
	}
	version := ""
	if fields := strings.Fields(string(output)); len(fields) > 1 {
		version = oneLine(strings.TrimPrefix(fields[1], "v"))
	}
	if bytes.Contains(output, []byte("nf_tables")) {
		return VariantNFT, version, nil
	}
	return VariantLegacy, version, nil
}

// lookPath finds a program in PATH, or where administrators' programs are: a user's PATH may leave those out.
func lookPath(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// lockSeconds is the lock timeout in whole seconds, as the programs take it; at least one, because 0 waits for ever.
func (t *tool) lockSeconds() int {
	return max(1, int((t.lockTimeout+time.Second-1)/time.Second))
}

// list reads the tables that we have chains in. It changes nothing, and loads no kernel module.
func (t *tool) list(ctx context.Context) (map[string]*table, error) {
	all := map[string]*table{}
	for _, name := range ourTables() {
		listed, err := t.listTable(ctx, name)
		if err != nil {
			return nil, err
		}
		all[name] = listed
	}
	return all, nil
}

// listTable reads one table, with further options of iptables-save; one that is not there is empty. It changes nothing,
// loads no kernel module and needs no lock.
func (t *tool) listTable(ctx context.Context, name string, options ...string) (*table, error) {
	if !t.exists(name) {
		return &table{}, nil
	}
	output, err := t.run(ctx, "", t.save, append(options, "-t", name)...)
	if err != nil {
		return nil, fmt.Errorf("cannot list table %s of %s: %w", name, t.family, err)
	}
	listed := parseSave(output)[name]
	if listed == nil {
		return &table{}, nil
	}
	if listed.incompatible != "" {
		return nil, fmt.Errorf("cannot list table %s of %s: %s (nft rules that iptables cannot show stand in it; "+
			"move them to a table of another name)", name, t.family, listed.incompatible)
	}
	return listed, nil
}

// listAll reads every table, for the choice of a variant.
func (t *tool) listAll(ctx context.Context) (map[string]*table, error) {
	if t.variant == VariantLegacy && len(legacyTables(t.family)) == 0 {
		return nil, nil
	}
	output, err := t.run(ctx, "", t.save)
	if err != nil {
		return nil, fmt.Errorf("cannot list the rules of %s: %w", t.family, err)
	}
	return parseSave(output), nil
}

// exists tells whether a table may be there. Listing a legacy table that is not would make it, and load its module.
func (t *tool) exists(table string) bool {
	return t.variant != VariantLegacy || slices.Contains(legacyTables(t.family), table)
}

// legacyVisible tells whether this process may see legacy rules. In a user namespace of its own it may not, even as that
// namespace's root: the files belong to somebody else.
func legacyVisible() bool {
	for _, name := range []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"} {
		if _, err := os.ReadFile(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// legacyTables returns the legacy tables that this network namespace has. Where that may not be read it names those
// that we use, so that the program's own error comes up.
func legacyTables(family Family) []string {
	name := "/proc/thread-self/net/ip_tables_names"
	if family == IPv6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(name)
	switch {
	case err == nil:
		return strings.Fields(string(text))
	case errors.Is(err, fs.ErrNotExist): // the module is not loaded
		return nil
	}
	return ourTables()
}

// find tells whether a rule stands in a chain, in whatever words iptables lists it.
func (t *tool) find(table, chain, rule string) (bool, error) {
	protocol := iptables.ProtocolIPv4
	if t.family == IPv6 {
		protocol = iptables.ProtocolIPv6
	}
	t.runs.Add(2) // New asks for the version
	program, err := iptables.New(iptables.IPFamily(protocol), iptables.Path(t.command), iptables.Timeout(t.lockSeconds()))
	if err != nil {
		return false, fmt.Errorf("cannot use %s: %w", t.command, err)
	}
	found, err := program.Exists(table, chain, strings.Fields(rule)...)
	switch {
	case err != nil && strings.Contains(err.Error(), "doesn't exist"): // the set does not, so no rule can name it
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot look for a rule in chain %q: %w", chain,
			newToolError(t.command+" -C", err.Error(), errors.New("failed")))
	}
	return found, nil
}

// apply runs a script of iptables-restore: all of a table or nothing of it, rules of others untouched.
func (t *tool) apply(ctx context.Context, script string) error {
	_, err := t.run(ctx, script, t.restore, "-w", strconv.Itoa(t.lockSeconds()), "--noflush")
	if err != nil {
		return fmt.Errorf("cannot write the rules of %s: %w", t.family, err)
	}
	return nil
}

func (t *tool) run(ctx context.Context, input, path string, args ...string) (string, error) {
	t.runs.Add(1)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		command := strings.Join(append([]string{filepath.Base(path)}, args...), " ")
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return "", newToolError(command, stderr.String(), err)
	}
	return stdout.String(), nil
}
