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
	"sync"
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

// The families. FamilyInet is both in one table, as only nf_tables has it.
const (
	IPv4       Family = "ipv4"
	IPv6       Family = "ipv6"
	FamilyInet Family = "inet"
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
	runs                   *programs
	// proven are the rules of ours that the program itself found in a chain, with what the chain's listing was then: the
	// same listing proves it again. Asking would take the lock, whose release wakes Watch, which would ask again.
	proven map[rulePlace]string
}

// rulePlace is a rule in a chain.
type rulePlace struct{ table, chain, rule string }

// programs counts the programs that were started, and knows the latest ones by their process ids.
type programs struct {
	atomic.Int64
	mu     sync.Mutex
	latest [64]int
	next   int
}

// started notes a program that runs now.
func (p *programs) started(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest[p.next] = pid
	p.next = (p.next + 1) % len(p.latest)
}

// ours tells whether a process is this one or one of the programs that it started lately.
func (p *programs) ours(pid uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pid != 0 && (int(pid) == os.Getpid() || slices.Contains(p.latest[:], int(pid)))
}

// findTool looks for the programs of a variant: under the variant's own names, then under the plain ones where these
// are that variant. It returns nil where there are none.
func findTool(ctx context.Context, variant Variant, family Family, lockTimeout time.Duration, runs *programs) *tool {
	for _, name := range []string{family.program() + "-" + string(variant), family.program()} {
		t := &tool{variant: variant, family: family, lockTimeout: lockTimeout, runs: runs, proven: map[rulePlace]string{}}
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

// plainVariant finds out which variant a program called iptables is: by the file that distributions let it be a link to, or
// else by asking it. Those before 1.8 do not say; they are legacy.
func plainVariant(ctx context.Context, command string) (Variant, error) {
	if file, err := filepath.EvalSymlinks(command); err == nil {
		switch filepath.Base(file) {
		case "xtables-nft-multi":
			return VariantNFT, nil
		case "xtables-legacy-multi":
			return VariantLegacy, nil
		}
	}
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

// list reads the tables that wanted has chains in, and those in which chains of ours may stand; others are empty. It
// changes nothing, and loads no kernel module.
func (t *tool) list(ctx context.Context, wanted []chain) (map[string]*table, error) {
	return t.startList(ctx, wanted)()
}

// startList begins to read tables as list does, and returns what waits for them. Between the two, other tools may begin as
// well: their programs then run side by side.
func (t *tool) startList(ctx context.Context, wanted []chain) (wait func() (map[string]*table, error)) {
	var waits []func() (*table, error)
	for _, name := range ourTables() {
		if t.concerns(name, wanted) {
			waits = append(waits, t.startTable(ctx, name))
		} else {
			waits = append(waits, func() (*table, error) { return &table{}, nil })
		}
	}
	return func() (map[string]*table, error) {
		all := map[string]*table{}
		var errs []error
		for i, name := range ourTables() {
			listed, err := waits[i]()
			all[name] = listed
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return all, nil
	}
}

// concerns tells whether a table is to be read. One of nf_tables in which nothing of ours stands, or should, is left alone:
// somebody may keep rules there that iptables cannot show. No jump to our chains can stand without them.
func (t *tool) concerns(name string, wanted []chain) bool {
	return t.variant != VariantNFT || slices.ContainsFunc(wanted, func(c chain) bool { return c.table == name }) ||
		nftMayHave(t.family, name, ourChain)
}

// listTable reads one table, with further options of iptables-save; one that is not there is empty. It changes nothing,
// loads no kernel module and needs no lock.
func (t *tool) listTable(ctx context.Context, name string, options ...string) (*table, error) {
	return t.startTable(ctx, name, options...)()
}

// startTable begins to read a table as listTable does, and returns what waits for it.
func (t *tool) startTable(ctx context.Context, name string, options ...string) (wait func() (*table, error)) {
	if !t.exists(name) {
		return func() (*table, error) { return &table{}, ctx.Err() }
	}
	running := t.start(ctx, "", t.save, append(options, "-t", name)...)
	return func() (*table, error) {
		output, err := running()
		if err != nil {
			return nil, fmt.Errorf("cannot list table %s of %s: %w", name, t.family, err)
		}
		return t.tableIn(output, name)
	}
}

// tableIn returns the table of that name in a listing.
func (t *tool) tableIn(output, name string) (*table, error) {
	listed := parseSave(output)[name]
	if listed == nil {
		return &table{}, nil
	}
	if listed.incompatible != "" {
		remedy := "move them to a table of another name"
		if name == filterTable {
			remedy += ", or set accept to \"none\""
		}
		return nil, fmt.Errorf("cannot list table %s of %s: %s (nft rules that iptables cannot show stand in it; %s)",
			name, t.family, listed.incompatible, remedy)
	}
	return listed, nil
}

// listAll reads every table, for the choice of a variant.
func (t *tool) listAll(ctx context.Context) (map[string]*table, error) {
	if t.variant == VariantLegacy && len(legacyTables(t.family)) == 0 || t.variant == VariantNFT && !nftMayHave(t.family, anyTable, anyChain) {
		return nil, nil
	}
	output, err := t.run(ctx, "", t.save)
	if err != nil {
		return nil, fmt.Errorf("cannot list the rules of %s: %w", t.family, err)
	}
	return parseSave(output), nil
}

// exists tells whether a table with rules may be there. Listing a legacy table that is not would make it, and load its
// module; to list one of nf_tables that is not takes a program milliseconds.
func (t *tool) exists(table string) bool {
	if t.variant == VariantLegacy {
		return slices.Contains(legacyTables(t.family), table)
	}
	return nftMayHave(t.family, table, anyChain)
}

func anyChain(string) bool { return true }

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
	return t.start(ctx, input, path, args...)()
}

// start starts a program, and returns what waits for its end and output.
func (t *tool) start(ctx context.Context, input, path string, args ...string) (wait func() (string, error)) {
	t.runs.Add(1)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	err := cmd.Start()
	if err == nil {
		t.runs.started(cmd.Process.Pid)
	}
	return func() (string, error) {
		if err == nil {
			err = cmd.Wait()
		}
		if err == nil {
			return stdout.String(), nil
		}
		command := strings.Join(append([]string{filepath.Base(path)}, args...), " ")
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		failed := newToolError(command, stderr.String(), err)
		if errors.Is(failed, ErrLocked) {
			failed.Holder = lockHolder("/proc", lockPath())
		}
		return "", failed
	}
}
