// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// debianPackages are Debian's loader of saved rules and its plugins.
func debianPackages() []string { return []string{"netfilter-persistent", "iptables-persistent"} }

// debianRoot is where fetchDebian leaves what the packages hold.
func debianRoot() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the user's cache: %w", err)
	}
	return filepath.Join(cache, "hostagent", "netfilter-persistent"), nil
}

// fetchDebian gets the packages into the user's cache, with apt, where they are not there. TestMain calls it while the
// network of the machine can still be reached. Nothing is installed.
func fetchDebian(ctx context.Context) error {
	root, err := debianRoot()
	if err != nil {
		return err
	}
	if _, err := os.Stat(root); err == nil || netns.Inside() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(root), "netfilter-persistent-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	script := "apt-get -q download " + strings.Join(debianPackages(), " ") + `; for package in *.deb; do dpkg -x "$package" root; done`
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Dir = temporary
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot get Debian's %s (apt-get update first?): %w\n%s", strings.Join(debianPackages(), " and "), err, out)
	}
	if err := os.Rename(filepath.Join(temporary, "root"), root); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// debian is a host with netfilter-persistent. Its /etc is the machine's with a layer above it, which only what runs
// through etc sees.
type debian struct {
	*world
	root, layer string
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	netns.RequireRoot(t, "an ordinary user cannot lay files over /etc")
	root, err := debianRoot()
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "usr/share/netfilter-persistent/plugins.d/15-ip4tables"))
	}
	if err != nil {
		t.Fatalf("netfilter-persistent was not to be had, see above: %v", err)
	}
	d := &debian{world: newWorld(t, host.ConsulOptions{}), root: root}
	d.layer = filepath.Join(d.Dir, "etc")
	d.must(os.MkdirAll(d.layer, 0o755))
	// An overlay's upper folder cannot be on an overlay, as the root of many a container is.
	d.run("mount", "-t", "tmpfs", "tmpfs", d.layer)
	t.Cleanup(func() { _ = exec.Command("umount", d.layer).Run() })
	d.run("sh", "-ec", `cd "$1" && mkdir -p upper/iptables upper/default work && cp "$2"/etc/default/netfilter-persistent upper/default`, "sh", d.layer, root)
	return d
}

// etc runs a program in the host with its own /etc, and returns what it says and its status.
func (d *debian) etc(name string, args ...string) (string, int) {
	d.t.Helper()
	script := `mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" /etc; exec "$@"`
	out, code, err := d.Run(d.ctx, "unshare", append([]string{"-m", "sh", "-ec", script, d.layer, name}, args...)...)
	d.must(err)
	return out, code
}

// persistent runs the plugins as netfilter-persistent does.
func (d *debian) persistent(verb string) (string, int) {
	d.t.Helper()
	return d.etc("run-parts", "-v", "-a", verb, filepath.Join(d.root, "usr/share/netfilter-persistent/plugins.d"))
}

// boots takes everything out of the kernel, as a reboot does.
func (d *debian) boots() {
	d.t.Helper()
	d.reboot()
	for _, program := range []string{"iptables", "ip6tables"} {
		d.run("sh", "-ec", program+" -P INPUT ACCEPT; "+program+" -F; "+program+" -X; "+program+" -t mangle -F; "+program+" -t mangle -X")
	}
	d.run("sh", "-c", "ipset list -n | grep . && exit 1; iptables-save | grep ^-A && exit 1; exit 0")
}

// loaded tells whether the host's own rules, of both families, are in the kernel.
func (d *debian) loaded() bool {
	d.t.Helper()
	own := 0
	for _, program := range []string{"iptables", "ip6tables"} {
		if rules := d.run(program, "-S", "INPUT"); strings.Contains(rules, "-P INPUT DROP") && strings.Contains(rules, "--dport 2222 -j ACCEPT") {
			own++
		}
	}
	if own == 1 {
		d.t.Errorf("one family's rules are loaded, the other's are not")
	}
	return own == 2
}

// TestSavedRules: somebody saves the rules of a guarded host with Debian's netfilter-persistent. That is found; at the next
// boot it would leave the host without any rule; where the sets are made first, everything is loaded, and a restore and a
// run put the rest right. The command of the finding's remedy mends it for good.
func TestSavedRules(t *testing.T) {
	d := newDebian(t)
	_, sidecar := d.service("web", 8080, "127.0.0.1:8080")
	d.defaultDrop("nft")
	for _, program := range []string{"iptables", "ip6tables"} {
		d.run(program, "-A", "INPUT", "-p", "tcp", "--dport", "2222", "-j", "ACCEPT")
	}
	agent := d.guard("")
	d.saved(fmt.Sprintf(`"open":"%d"`, sidecar))
	if !d.loaded() {
		t.Fatal("the host's own rules are not there to begin with")
	}

	if out, code := d.persistent("save"); code != 0 {
		t.Fatalf("save ended with %d:\n%s", code, out)
	}
	rules, err := os.ReadFile(filepath.Join(d.layer, "upper/iptables/rules.v4"))
	d.must(err)
	if !strings.Contains(string(rules), "--match-set hostagent-guard dst") {
		t.Fatalf("nothing of hostagent was saved:\n%s", rules)
	}
	binary, err := host.Binary(d.ctx, host.HostagentProgram)
	d.must(err)
	scan, code := d.etc(binary, "scan", "--format", "json")
	for _, file := range []string{"/etc/iptables/rules.v4", "/etc/iptables/rules.v6"} {
		if !strings.Contains(scan, file+" holds rules of hostagent (lines ") || code != 1 {
			t.Errorf("scan ended with %d and does not name %s:\n%s", code, file, scan)
		}
	}

	d.must(agent.Stop())
	d.boots()
	// As Debian ships it, it tries a file before it loads it, and then succeeds without having loaded anything.
	for status, settings := range []string{"IPTABLES_TEST_RULESET=yes\nIP6TABLES_TEST_RULESET=yes\n", "# neither\n"} {
		d.must(os.WriteFile(filepath.Join(d.layer, "upper/default/netfilter-persistent"), []byte(settings), 0o644))
		out, code := d.persistent("start")
		if code != status || !strings.Contains(out, "Set hostagent-guard doesn't exist") || d.loaded() {
			t.Fatalf("%swithout the sets, start ended with %d, so this test proves nothing:\n%s", settings, code, out)
		}
	}
	dir, err := d.Configure(quick)
	d.must(err)
	d.hostagent(0, "firewall", "restore", "--sets-only", "--mode", "guard", "--config", dir)
	if out, code := d.persistent("start"); code != 0 || !d.loaded() {
		t.Errorf("with the sets, start ended with %d:\n%s", code, out)
	}
	if out := d.hostagent(0, "firewall", "restore", "--mode", "guard", "--config", dir); !strings.Contains(out, "restored: ") {
		t.Errorf("restore says\n%s", out)
	}
	d.reaches(sidecar, host.Open)
	d.reaches(sidecar+1, host.Dropped)
	agent = d.guard("")
	d.checkTurns("firewall", "passing", "Guarded: 21000-21255\nOpen:    ")
	d.reaches(sidecar, host.Open)

	// As the remedy says. The file is then the host's own, and needs no sets.
	d.must(agent.Stop())
	for _, file := range []string{"rules.v4", "rules.v6"} {
		command := d.remedy(scan, "/etc/iptables/"+file)
		if out, code := d.etc("sh", "-c", command); code != 0 {
			t.Fatalf("%s ended with %d:\n%s", command, code, out)
		}
	}
	d.boots()
	if out, code := d.persistent("start"); code != 0 || !d.loaded() {
		t.Errorf("mended, start ended with %d:\n%s", code, out)
	}
	if scan, _ := d.etc(binary, "scan", "--format", "json"); strings.Contains(scan, "saved-rules") {
		t.Errorf("mended, it is still found:\n%s", scan)
	}
}

// remedy is the command for a file in what scan said.
func (d *debian) remedy(scan, file string) string {
	d.t.Helper()
	var document struct {
		Findings []struct{ ID, Message, Remedy string }
	}
	d.must(json.NewDecoder(strings.NewReader(scan)).Decode(&document))
	for _, f := range document.Findings {
		if f.ID == "saved-rules" && strings.Contains(f.Message, file) {
			_, command, _ := strings.Cut(f.Remedy, "delete them: ")
			return command
		}
	}
	d.t.Fatalf("no finding names %s:\n%s", file, scan)
	return ""
}
