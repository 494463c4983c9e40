// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// stranger is a user who has nothing to do with Consul.
const stranger = 65534

// TestImpostor: while Consul is down another user of the host listens at its address. Not one byte reaches him, the state
// stands, everybody is told, and when Consul is back nothing has to be restarted.
func TestImpostor(t *testing.T) {
	netns.RequireRoot(t, "it runs a process of another user")
	t.Parallel()
	for _, kind := range []string{"http", "unix"} {
		t.Run(kind, func(t *testing.T) {
			open := t.TempDir()
			for dir := open; dir != os.TempDir(); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			socket := filepath.Join(open, "http.sock")
			address, listen, where := "http://"+host.ConsulAddress, host.ConsulAddress, host.ConsulAddress
			if kind == "unix" {
				address, listen, where = "unix://"+socket, "unix:"+socket, socket
			}
			w := newWorld(t, host.ConsulOptions{Config: fmt.Sprintf(`addresses { http = "127.0.0.1 unix://%s" }`, socket)})
			const token = "11111111-aaaa-bbbb-cccc-222222222222"
			file := filepath.Join(open, "token")
			w.must(os.WriteFile(file, []byte(token), 0o600))
			port := w.register("web", 8080, 0)
			w.listenOn("sidecar", port, 21200)
			agent := w.startPrivately(quick + fmt.Sprintf("consul {\n  address = %q\n  token_file = %q\n}\n", address, file))
			w.guarded()
			stands := func() {
				t.Helper()
				w.reaches(port, host.Open)
				w.reaches(21200, host.Dropped)
			}
			stands()

			w.must(w.consul.Stop())
			w.must(os.RemoveAll(socket))
			impostor, err := w.StartApp(w.ctx, host.App{Name: "impostor", Listen: []string{listen}, UID: stranger, Record: true})
			w.must(err)
			w.must(agent.WaitLog(w.ctx, "id=agent-impostor"))
			named := []string{"agent-impostor", "(uid 65534)", where, "consul { user ="}
			status, code := agent.status()
			scan := w.hostagent(2, "scan", "--config", agent.config)
			if code != 1 || !containsAll(status, named...) || !containsAll(scan, named...) {
				t.Errorf("the impostor is not named: status ends with %d and says\n%s\nscan says\n%s", code, status, scan)
			}
			time.Sleep(6 * time.Second) // close_delay is 4 s
			stands()
			if log := impostor.Log(); !strings.Contains(log, "connection") || strings.Contains(log, "received") {
				t.Errorf("what reached the impostor:\n%s", log)
			}

			// The same process is the agent where the operator says so.
			w.hostagent(2, "scan", "--consul-user", fmt.Sprint(stranger), "--config", agent.config)
			w.must(impostor.WaitLog(w.ctx, "/v1/agent/services"))

			w.must(impostor.Stop())
			w.must(os.RemoveAll(socket))
			w.must(w.consul.Restart(w.ctx))
			w.must(agent.WaitLog(w.ctx, "finding resolved"))
			w.checkTurns("alive", "passing", "guard mode")
			stands()
			if text, code := agent.status(); code != 0 || strings.Contains(text, "agent-impostor") {
				t.Errorf("status after the return ends with %d:\n%s", code, text)
			}
			if log := agent.Log(); strings.Contains(log, token) {
				t.Errorf("the token is in the log:\n%s", log)
			}
		})
	}
}

// containsAll tells whether a text holds all others.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// TestAgentOfAnotherHost: registrations of another host do not count, unless the operator says so.
func TestAgentOfAnotherHost(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	theirs, address := w.otherAgent()
	remote := "http://" + address
	w.isNotLocal(remote, "no address of this host")
	if services, err := theirs.Agent().Services(); err != nil || services["hostagent"] != nil {
		t.Errorf("hostagent reported to another host's agent: %v, %v", services, err)
	}

	agent := w.start(quick+"consul { allow_remote_agent = true }\n", "--mode", "guard", "--consul-address", remote)
	w.guarded()
	w.reaches(21050, host.Open)
	w.reaches(21200, host.Dropped)
	w.must(agent.Stop())
	if services, err := theirs.Agent().Services(); err != nil || services["hostagent"] == nil {
		t.Errorf("with allow_remote_agent hostagent reports to the agent: %v, %v", services, err)
	}
}

// TestAgentBehindTunnel: they do not either where a tunnel leads from an address of this host to the other one.
func TestAgentBehindTunnel(t *testing.T) {
	netns.RequireRoot(t, "whoever does not see all network namespaces of the machine cannot tell that no agent gossips in one")
	w := newWorld(t, host.ConsulOptions{})
	theirs, address := w.otherAgent()
	w.tunnel("127.0.0.1:8501", address)
	w.isNotLocal("http://127.0.0.1:8501", "it says that it is node other at ")
	if services, err := theirs.Agent().Services(); err != nil || services["hostagent"] != nil {
		t.Errorf("hostagent reported to another host's agent: %v, %v", services, err)
	}
}

// otherAgent starts an agent on a host of its own, where service theirs has a sidecar on 21050, and listens here on that
// port and on 21200. It returns the agent and its address.
func (w *world) otherAgent() (agent *api.Client, address string) {
	w.t.Helper()
	other, err := w.Neighbour()
	w.must(err)
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	_, err = w.Start("consul other", other.Command(context.Background(), binary, "agent", "-dev", "-node", "other", "-bind", other.IPv4,
		"-client", "0.0.0.0", "-serf-lan-port", "9301", "-hcl", "disable_update_check = true"))
	w.must(err)
	address = net.JoinHostPort(other.IPv4, "8500")
	agent, err = api.NewClient(&api.Config{Address: address, HttpClient: w.HTTPClient()})
	w.must(err)
	w.until("the other agent has a sidecar", func() error {
		return agent.Agent().ServiceRegister(&api.AgentServiceRegistration{
			Name: "theirs", Port: 8080, Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: 21050}},
		})
	})
	_, err = w.StartApp(w.ctx, host.App{Name: "app", Listen: []string{"[::]:21050", "[::]:21200"}})
	w.must(err)
	return agent, address
}

// isNotLocal wants the agent at an address to be refused for a reason, and nothing to be guarded for it.
func (w *world) isNotLocal(address, reason string) {
	w.t.Helper()
	text := w.hostagent(2, "scan", "--consul-address", address)
	if squeezed := strings.Join(strings.Fields(text), " "); !strings.Contains(squeezed, "agent-not-local") || !strings.Contains(squeezed, reason) || strings.Contains(squeezed, "theirs") {
		w.t.Errorf("scan of %s:\n%s", address, text)
	}
	agent := w.start(quick, "--mode", "guard", "--consul-address", address)
	w.must(agent.WaitLog(w.ctx, reason))
	time.Sleep(4 * time.Second) // longer than settling takes
	w.reaches(21050, host.Open)
	w.reaches(21200, host.Open)
	w.must(agent.Stop())
}

// tunnel passes on what comes for an address of the host.
func (w *world) tunnel(from, to string) {
	w.t.Helper()
	proxy := w.passOn(to)
	// All namespaces of these tests are one machine's, so that gossip in any of them is heard of: let it seem to be elsewhere.
	proxy.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		body = bytes.ReplaceAll(body, []byte("9301"), []byte("9302"))
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	w.serve(from, proxy)
}
