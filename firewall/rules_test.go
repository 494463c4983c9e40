// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestWords(t *testing.T) {
	tests := []struct {
		rule string
		want []string
	}{
		{"", nil},
		{"-A INPUT -j X", []string{"-A", "INPUT", "-j", "X"}},
		{`-A INPUT --comment "a -j X" -j Y`, []string{"-A", "INPUT", "--comment", `"a -j X"`, "-j", "Y"}},
		{`-A INPUT --comment "a \" -j X" -j Y`, []string{"-A", "INPUT", "--comment", `"a \" -j X"`, "-j", "Y"}},
		{`  -A  INPUT "open`, []string{"-A", "INPUT", `"open`}},
		{`-A INPUT "" \`, []string{"-A", "INPUT", `""`, `\`}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, words(tt.rule)); diff != "" {
			t.Errorf("words(%q) (-want +got):\n%s", tt.rule, diff)
		}
	}
}

func FuzzParseSave(f *testing.F) {
	f.Add("*mangle\n:PREROUTING ACCEPT [0:0]\n:HOSTAGENT-GUARD - [0:0]\n-A PREROUTING -j HOSTAGENT-GUARD\nCOMMIT\n")
	f.Add("-A\n:\n*\n-A \n:x\n# Table `x' is incompatible\n*x\n-A \"-j HOSTAGENT-GUARD\n")
	f.Fuzz(func(t *testing.T, output string) {
		for name, table := range parseSave(output) {
			if table == nil {
				t.Fatalf("table %q is nil", name)
			}
			for _, j := range table.jumps {
				if j.Position < 1 || j.Parent == "" {
					t.Fatalf("jump %+v", j)
				}
			}
			wanted := sample()
			_, _ = table.fixes(mangleTable, wanted.chains(IPv4), func(string, string) (bool, error) { return true, nil })
		}
	})
}

func FuzzSetListing(f *testing.F) {
	f.Add(append([]byte{2, 0, 0, 0}, appendRange(nil, 1, 9)...))
	for _, source := range prefixes("10.0.0.0/8", "fd00::/8") {
		members := nl.NewRtAttr(nl.IPSET_ATTR_ADT|unix.NLA_F_NESTED, appendSource(nil, source)).Serialize()
		typeName := nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(fromSetType)).Serialize()
		f.Add(slices.Concat([]byte{2, 0, 0, 0}, typeName, members))
	}
	f.Fuzz(func(_ *testing.T, message []byte) {
		s := &ipset{}
		s.parse(message)
		_ = s.kind()
	})
}

// TestSetListing: a listing is told apart by its attributes, and one that ends early is no reason to fail.
func TestSetListing(t *testing.T) {
	attribute := func(kind int, value []byte) []byte { return nl.NewRtAttr(kind, value).Serialize() }
	member := func(port uint16) []byte {
		be := binary.BigEndian.AppendUint16(nil, port)
		return attribute(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, attribute(nl.IPSET_ATTR_PORT|unix.NLA_F_NET_BYTEORDER, be))
	}
	message := append([]byte{2, 0, 0, 0}, attribute(nl.IPSET_ATTR_TYPENAME, []byte("bitmap:port\x00"))...)
	message = append(message, attribute(nl.IPSET_ATTR_ADT|unix.NLA_F_NESTED, append(member(22), member(80)...))...)
	s := &ipset{}
	s.parse(message)
	if s.typeName != portSetType || s.ports != Ports(22, 80) {
		t.Errorf("parsed %q, %v", s.typeName, s.ports)
	}
	for end := range message {
		(&ipset{}).parse(message[:end])
	}
}

func TestScript(t *testing.T) {
	listing := parseSave(`*mangle
:PREROUTING ACCEPT [1:2]
:INPUT ACCEPT [0:0]
:HOSTAGENT-GUARD - [0:0]
:HOSTAGENT-ACCEPT - [0:0]
-A PREROUTING -p udp -j ACCEPT
-A INPUT -j HOSTAGENT-GUARD
-A INPUT -p tcp -m comment --comment "x y" -j HOSTAGENT-GUARD
-A INPUT -g HOSTAGENT-ACCEPT
-A HOSTAGENT-GUARD -p udp -j HOSTAGENT-ACCEPT
COMMIT
`)
	want := sample()
	fixes, err := listing[mangleTable].fixes(mangleTable, want.chains(IPv4), func(string, string) (bool, error) { return false, nil })
	if err != nil {
		t.Fatal(err)
	}
	golden := `*mangle
-F HOSTAGENT-ACCEPT
:HOSTAGENT-PREROUTING - [0:0]
:HOSTAGENT-GUARD - [0:0]
-D INPUT -g HOSTAGENT-ACCEPT
-X HOSTAGENT-ACCEPT
-A HOSTAGENT-PREROUTING ` + guardRule + `
-I PREROUTING 1 -j HOSTAGENT-PREROUTING
-A HOSTAGENT-GUARD ` + guardRule + `
-D INPUT -j HOSTAGENT-GUARD
-D INPUT -p tcp -m comment --comment "x y" -j HOSTAGENT-GUARD
-I INPUT 1 -j HOSTAGENT-GUARD
COMMIT
`
	if diff := cmp.Diff(golden, script(fixes)); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
	if got := listing[mangleTable].foreign; got != 1 {
		t.Errorf("counted %d rules of others, want 1", got)
	}
}

func TestIncompatibleTable(t *testing.T) {
	tables := parseSave("# Table `filter' is incompatible, use 'nft' tool.\n\n*mangle\n:INPUT DROP [0:0]\nCOMMIT\n")
	if tables[filterTable] == nil || tables[filterTable].incompatible == "" || tables[mangleTable].incompatible != "" {
		t.Errorf("parsed %+v", tables)
	}
	tables = parseSave("# Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n*filter\nCOMMIT\n")
	if tables[filterTable].incompatible != "" {
		t.Error("a table that iptables can show is taken for one that it cannot")
	}
}

func TestAcceptCheck(t *testing.T) {
	for _, good := range []Accept{{}, {None: true}, {Chain: "INPUT"}, {Chain: "ufw-before-input"}, {Chain: "f2b.x_1"}} {
		if err := good.check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []string{"a b", "x\n-A INPUT -j ACCEPT", "-F", "!x", ":x", `"x"`, "a\x00", "é", guardChain, acceptChain,
		strings.Repeat("x", 29)} {
		f := &Firewall{}
		if _, err := f.Apply(context.Background(), Ruleset{Accept: Accept{Chain: bad}}); err == nil {
			t.Errorf("chain %q was accepted", bad)
		}
		if _, err := f.Plan(context.Background(), Ruleset{Accept: Accept{Chain: bad}}); err == nil {
			t.Errorf("Plan: chain %q was accepted", bad)
		}
	}
}

// TestSetSteps compares the order of changes as text.
func TestSetSteps(t *testing.T) {
	tests := []struct {
		name       string
		have, want Ruleset
		steps      string
	}{
		{"nothing", sample(), sample(), ""},
		{"from nothing", Ruleset{}, Ruleset{Guard: Ports(1), Open: Ports(2), Cut: Ports(3)},
			"open: none -> 2\nguard: none -> 1\ncut: none -> 3\n"},
		{"to nothing", Ruleset{Guard: Ports(1), Open: Ports(2), Cut: Ports(3)}, Ruleset{},
			"guard: 1 -> none\ncut: 3 -> none\nopen: 2 -> none\n"},
		{"everything moves", Ruleset{Guard: Ports(1), Open: Ports(2)}, Ruleset{Guard: Ports(5), Open: Ports(6)},
			"open: 2 -> 2, 6\nguard: 1 -> 5\nopen: 2, 6 -> 6\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			for _, s := range setSteps(&tt.have, &tt.want) {
				got.WriteString(strings.TrimPrefix(s.set, "hostagent-") + ": " + s.from.String() + " -> " + s.to.String() + "\n")
			}
			if diff := cmp.Diff(tt.steps, got.String()); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChangesString(t *testing.T) {
	var c Changes
	if !c.Empty() || c.String() != "nothing" {
		t.Errorf("no changes read %q", c)
	}
	open := Ports(21000, 21001, 21010)
	c.set(openSet).Created = true
	c.addPorts(openSet, &open, &PortSet{})
	c.addPorts(guardSet, &PortSet{}, &open)
	c.addPorts(cutSet, &PortSet{}, &PortSet{})
	c.addRules(&tool{variant: VariantNFT, family: IPv4}, []fix{{table: mangleTable, chain: guardChain, done: "written"}})
	c.Repaired = []string{"set x was gone"}
	want := "hostagent-open created +21000-21001 +21010; hostagent-guard -21000-21001 -21010; " +
		"ipv4 nft HOSTAGENT-GUARD written; repaired: set x was gone"
	if diff := cmp.Diff(want, c.String()); diff != "" {
		t.Errorf("String (-want +got):\n%s", diff)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("applied", "changes", c)
	if !strings.Contains(log.String(), want) {
		t.Errorf("the log line does not have the text: %s", log.String())
	}
}

func TestToolError(t *testing.T) {
	failed := errors.New("exit status 4")
	tests := []struct {
		stderr string
		kind   error
		text   string
	}{
		{"Can't lock /run/xtables.lock: Resource temporarily unavailable\nAnother app is currently holding the xtables lock. Stopped waiting after 1s.\n",
			ErrLocked, "unavailable; Another app"},
		{"iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n",
			ErrPermission, "run as root"},
		{"Fatal: can't open lock file /run/xtables.lock: Permission denied\n", errLockFile, "XTABLES_LOCKFILE"},
		{"bad \x1b[31m rule\r\n", nil, "bad ?[31m rule"},
		{"", nil, "it said nothing"},
	}
	for _, tt := range tests {
		err := newToolError("iptables-restore -w 1", tt.stderr, failed)
		if !errors.Is(err, failed) || tt.kind != nil && !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%q became: %v", tt.stderr, err)
		}
		if tt.kind == nil && (errors.Is(err, ErrLocked) || errors.Is(err, ErrPermission)) {
			t.Errorf("%q has a kind: %v", tt.stderr, err)
		}
	}
	if long := oneLine(strings.Repeat("é", 1000)); len(long) > 700 || strings.ContainsRune(long, '\uFFFD') {
		t.Errorf("a long text became %d bytes: %q", len(long), long)
	}
}

func TestIPv6Present(t *testing.T) {
	for _, name := range []string{"thread-self/net/if_inet6", "sys/net/ipv6/conf"} {
		proc := t.TempDir()
		if ipv6Present(proc) {
			t.Fatal("IPv6 is present in an empty directory")
		}
		if err := os.MkdirAll(filepath.Join(proc, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if !ipv6Present(proc) {
			t.Errorf("%s is no sign of IPv6", name)
		}
	}
}
