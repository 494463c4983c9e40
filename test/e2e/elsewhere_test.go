// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// TestServiceElsewhere: an application and its sidecar in a namespace of their own behind a bridge, as Nomad lays them out:
// the sidecar's port is sent there by a nat rule, and the application is called on loopback there. Another program has the
// application's port on the host. hostagent judges the application where it lives, as root, who enters the namespace, and
// as a service without CAP_SYS_ADMIN, which reads /proc.
func TestServiceElsewhere(t *testing.T) {
	const sidecar = 21000
	dir := t.TempDir()
	socket := filepath.Join(dir, "consul.sock") // the way that Nomad gives sidecars to the agent
	w := newLoneWorld(t, host.ConsulOptions{Config: fmt.Sprintf("addresses { http = \"127.0.0.1 unix://%s\" }\n", socket)})
	alloc, err := w.Container()
	w.must(err)
	w.must(w.InHost(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) }))
	_, err = w.Iptables(w.ctx, host.FamilyIPv4, "-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL",
		"-p", "tcp", "--dport", fmt.Sprint(sidecar), "-j", "DNAT", "--to-destination", at(alloc.IPv4, sidecar))
	w.must(err)
	_, err = w.Iptables(w.ctx, host.FamilyIPv4, "-t", "nat", "-A", "OUTPUT", "-m", "addrtype", "--dst-type", "LOCAL",
		"!", "-d", "127.0.0.0/8", "-p", "tcp", "--dport", fmt.Sprint(sidecar), "-j", "DNAT", "--to-destination", at(alloc.IPv4, sidecar))
	w.must(err)
	w.register("web", 8080, sidecar)
	app := w.startIn(alloc.Namespace, "web", "127.0.0.1:8080")
	consul, err := host.ConsulBinary(w.ctx, os.Stderr)
	w.must(err)
	proxy := alloc.Command(context.Background(), consul, "connect", "proxy", "-sidecar-for", "web")
	proxy.Env = append(os.Environ(), "CONSUL_HTTP_ADDR=unix://"+socket)
	_, err = w.Start("sidecar web", proxy)
	w.must(err)
	w.until("the sidecar listens in the container", func() error {
		if listening, err := alloc.Listening(sidecar); err != nil || listening {
			return err
		}
		return errors.New("it does not")
	})
	_, err = w.StartApp(w.ctx, host.App{Name: "other", Listen: []string{"[::]:8080"}})
	w.must(err)
	conn, err := w.MeshDial(w.ctx, "client", "web", at(host.IPv4, sidecar))
	w.must(err)
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if greeting, err := host.Hello(ctx, conn); err != nil || greeting != "hello from web" {
		t.Fatalf("through the mesh: %q, %v", greeting, err)
	}
	conn.Close()

	agents := map[string]func() (findings []elsewhereFinding){"root": func() []elsewhereFinding { return w.scanned(false) }}
	if !netns.Rootless() {
		agents["without CAP_SYS_ADMIN"] = func() []elsewhereFinding { return w.scanned(true) }
	}
	for who, scan := range agents {
		for _, f := range scan() {
			if f.ID == "exposed-listener" || f.ID == "sidecar-not-listening" {
				t.Errorf("%s, on loopback: %+v", who, f)
			}
		}
	}
	w.must(app.Stop())
	w.startIn(alloc.Namespace, "web", "0.0.0.0:8080")
	for who, scan := range agents {
		var exposed []elsewhereFinding
		for _, f := range scan() {
			if f.ID == "exposed-listener" || f.ID == "sidecar-not-listening" {
				exposed = append(exposed, f)
			}
		}
		if len(exposed) != 1 || exposed[0].ID != "exposed-listener" || exposed[0].Listener == nil || exposed[0].Listener.Namespace == 0 ||
			!strings.Contains(exposed[0].Message, "in network namespace "+alloc.Name+": whatever shares a network with it reaches it") {
			t.Errorf("%s, exposed: %+v", who, exposed)
		}
	}

	agent := w.guard("enforce = \"quarantine\"\nquarantine_ports = [8080]\n")
	w.checkTurns("service:web", api.HealthWarning, "in network namespace "+alloc.Name)
	w.checkTurns("service:web", api.HealthWarning, "where hostagent keeps no rules")
	w.reaches(8080, host.Open) // the other program's: it is none of the service's business
	w.must(agent.Stop())
}

// elsewhereFinding is what the test reads of a finding.
type elsewhereFinding struct {
	ID, Message string
	Listener    *struct {
		Namespace uint64 `json:"network_namespace"`
	}
}

// startIn starts an application in another namespace than the host's.
func (w *world) startIn(n *host.Namespace, name string, listen string) *host.Process {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.AppProgram)
	w.must(err)
	process, err := w.Start("app "+name, n.Command(context.Background(), binary, "-name", name, "-listen", listen))
	w.must(err)
	w.must(process.WaitLog(w.ctx, "ready\n"))
	return process
}

// scanned returns what a scan finds, with all capabilities or with those of the service alone.
func (w *world) scanned(limited bool) []elsewhereFinding {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	args := []string{binary, "scan", "--format", "json"}
	if limited {
		const capabilities = "-all,+net_admin,+net_raw,+sys_ptrace,+dac_read_search"
		args = append([]string{"setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities, "--ambient-caps", capabilities}, args...)
	}
	cmd := w.Command(w.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	out, err := cmd.Output()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() > 1 {
		w.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	var document struct {
		Findings []elsewhereFinding
		Notes    []string
	}
	if err := json.Unmarshal(out, &document); err != nil {
		w.t.Fatalf("hostagent scan says %q: %v", out, err)
	}
	if told := strings.Contains(strings.Join(document.Notes, "\n"), "without CAP_SYS_ADMIN"); told != limited {
		w.t.Errorf("limited %t, but the notes are %q", limited, document.Notes)
	}
	return document.Findings
}
