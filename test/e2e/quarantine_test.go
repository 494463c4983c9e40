// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// call is a running connection to an application that greets and then echoes.
type call struct {
	net.Conn
	reader *bufio.Reader
}

// call connects from a namespace and waits for the greeting, so that the connection is an established one on both ends.
func (w *world) call(from *host.Namespace, address string) *call {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", address)
	w.must(err)
	w.t.Cleanup(func() { conn.Close() })
	c := &call{conn, bufio.NewReader(conn)}
	w.must(conn.SetReadDeadline(time.Now().Add(5 * time.Second)))
	if greeting, err := c.reader.ReadString('\n'); err != nil || !strings.HasPrefix(greeting, "hello from ") {
		w.t.Fatalf("%s greets with %q, %v", address, greeting, err)
	}
	return c
}

// alive sends a line and tells whether it comes back within a second.
func (c *call) alive() bool {
	if _, err := c.Write([]byte("ping\n")); err != nil {
		return false
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	line, err := c.reader.ReadString('\n')
	return err == nil && line == "ping\n"
}

// lives wants a connection to work, or not to.
func (w *world) lives(what string, c *call, want bool) {
	w.t.Helper()
	if got := c.alive(); got != want {
		w.t.Errorf("%s lives: %v, want %v", what, got, want)
	}
}

// closing is a configuration that quarantines ports. The tests' applications run as the tests do, which may be root, and
// root's ports are closed for confirmed services only.
func closing(ports, services string) string {
	return fmt.Sprintf("enforce = \"quarantine\"\nquarantine_ports = [%s]\nquarantine_services = [%s]\n", ports, services)
}

// guardsPort waits until the kernel's sets hold a port.
func (w *world) guardsPort(port uint16) {
	w.t.Helper()
	w.until(fmt.Sprintf("port %d is guarded", port), func() error {
		show := w.hostagent(0, "firewall", "show")
		if !strings.Contains(show, fmt.Sprintf("add hostagent-guard %d\n", port)) || !strings.Contains(show, fmt.Sprintf("add hostagent-cut %d\n", port)) {
			return fmt.Errorf("firewall show says\n%s", show)
		}
		return nil
	})
}

func TestQuarantineOfAnExposedApplication(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			app, sidecar := w.service("shop", 8080, "[::]:8080")
			var fromNet, fromHost []*call
			for _, address := range both() {
				fromNet = append(fromNet, w.call(w.Net, at(address, 8080)))
				fromHost = append(fromHost, w.call(w.Local, at(address, 8080)))
			}
			fromHost = append(fromHost, w.call(w.Local, "127.0.0.1:8080"), w.call(w.Local, "[::1]:8080"))
			for _, c := range fromNet {
				w.lives("before the quarantine, a connection from the network", c, true)
			}
			agent := w.guard(usingVariant(variant) + closing("8080", `"shop"`))
			w.guardsPort(8080)

			for i, c := range fromNet {
				w.lives("a connection from the network to "+both()[i], c, false)
			}
			w.reaches(8080, host.Dropped)
			for _, c := range fromHost {
				w.lives("a connection of the host itself to "+c.RemoteAddr().String(), c, true)
			}
			for _, address := range append(both(), "127.0.0.1", "::1") {
				w.lives("a new connection of the host itself to "+address, w.call(w.Local, at(address, 8080)), true)
			}
			w.meshWorks("shop", sidecar)
			w.checkTurns("service:shop", "passing", "exposed-listener (mitigated)")
			w.must(agent.WaitLog(w.ctx, `msg="port quarantined" port=8080 service=shop`))
			w.checkTurns("firewall", "passing", "8080  in quarantine for shop")

			w.must(app.Rebind(w.ctx, "127.0.0.1:8080", "[::1]:8080"))
			w.checkTurns("service:shop", "passing", "shop listens on loopback only")
			w.must(agent.WaitLog(w.ctx, `msg="port released from quarantine" port=8080 service=shop`))
			w.eventually(8080, host.Refused, 5*time.Second)
			w.meshWorks("shop", sidecar)
		})
	}
}

// TestQuarantineOfAPublishedContainer mimics what a container runtime makes of a published port: a proxy that listens on
// the host, and a nat rule that passes it by.
func TestQuarantineOfAPublishedContainer(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.register("web", 8080, 0)
	binary, err := host.Binary(w.ctx, host.AppProgram)
	w.must(err)
	_, err = w.Start("container", w.Net.Command(context.Background(), binary, "-name", "container", "-listen", host.NetIPv4+":7000"))
	w.must(err)
	program, err := os.ReadFile(binary)
	w.must(err)
	proxy := filepath.Join(w.Dir, "docker-proxy")
	w.must(os.WriteFile(proxy, program, 0o755))
	_, err = w.Start("docker-proxy", w.Command(context.Background(), proxy, "-name", "docker-proxy", "-listen", "0.0.0.0:8080"))
	w.must(err)
	w.must(w.InHost(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	for _, rule := range []string{
		"-A PREROUTING -p tcp -m addrtype --dst-type LOCAL --dport 8080 -j DNAT --to-destination " + host.NetIPv4 + ":7000",
		"-A OUTPUT ! -d 127.0.0.0/8 -p tcp -m addrtype --dst-type LOCAL --dport 8080 -j DNAT --to-destination " + host.NetIPv4 + ":7000",
		"-A POSTROUTING -p tcp -d " + host.NetIPv4 + " --dport 7000 -j MASQUERADE",
	} {
		w.run("iptables", append([]string{"-w", "5", "-t", "nat"}, strings.Fields(rule)...)...)
	}
	var running *call
	w.until("the container is reached", func() error {
		seen, err := w.Reachable(w.ctx, at(host.IPv4, 8080))
		if err == nil && seen != host.Open {
			err = errors.New(string(seen))
		}
		return err
	})
	running = w.call(w.Net, at(host.IPv4, 8080))
	w.lives("before the quarantine, a connection to the container", running, true)

	w.guard(closing("8080", ""))
	w.guardsPort(8080)
	w.lives("a connection to the container", running, false)
	if seen, err := w.Reachable(w.ctx, at(host.IPv4, 8080)); err != nil || seen != host.Dropped {
		t.Errorf("the container is %s, %v", seen, err)
	}
	w.lives("the host's own connection to the container", w.call(w.Local, at(host.IPv4, 8080)), true)
	w.lives("the host's own connection to the proxy", w.call(w.Local, "127.0.0.1:8080"), true)
}

// TestHostileRegistrationsCloseNothing: a service may be registered by anybody who may write that one, and name any port.
func TestHostileRegistrationsCloseNothing(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.listenOn("others", 22, 443, 5432, 6443)
	agent := w.consul.API().Agent()
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "nginx", Port: 443}))
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "evil", Port: 9999}))
	ports := []int{22, 443, 5432, 6443}
	for i, port := range ports {
		w.must(agent.ServiceRegister(&api.AgentServiceRegistration{
			ID: fmt.Sprintf("evil-%d", port), Name: "evil-sidecar-proxy", Kind: api.ServiceKindConnectProxy, Port: 21000 + i,
			Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: "evil", LocalServicePort: port},
		}))
	}
	running := w.call(w.Net, at(host.IPv4, 443))
	w.guard(closing("443, 6443, 8080", ""))
	for port, reason := range map[int]string{
		22: "it is a protected port", 443: "another registration names the same port: nginx",
		5432: "it is not in quarantine_ports", 6443: "it is root's, and a registration alone closes no port",
	} {
		if os.Getuid() != 0 && port == 6443 {
			continue // nobody here is root
		}
		w.until(fmt.Sprintf("the quarantine of %d is refused", port), func() error {
			check := w.check("service:evil")
			if check == nil {
				return errors.New("there is no check of it")
			}
			text := strings.Join(strings.Fields(check.Output), " ")
			if !strings.Contains(text, fmt.Sprintf("port %d of evil is not closed to the network: %s", port, reason)) {
				return errors.New(text)
			}
			return nil
		})
		w.reaches(uint16(port), host.Open)
	}
	w.lives("a connection to a neighbour", running, true)
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "add hostagent-guard 21000-21255\n") || strings.Contains(show, "add hostagent-cut") {
		t.Errorf("something is in quarantine:\n%s", show)
	}
}

func TestQuarantineInObserveModeClosesNothing(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "[::]:8080")
	running := w.call(w.Net, at(host.IPv4, 8080))
	agent := w.start(quick+closing("8080", `"web"`), "--mode", "observe")
	w.must(agent.WaitLog(w.ctx, `msg="guard mode would quarantine a port" port=8080 service=web`))
	w.checkTurns("service:web", "warning", "web listens on tcp [::]:8080")
	config := filepath.Join(t.TempDir(), "h.hcl")
	w.must(os.WriteFile(config, []byte("mode = \"observe\"\n"+closing("8080, 8081", `"web"`)), 0o600))
	plan := strings.Join(strings.Fields(w.hostagent(1, "firewall", "plan", "--config", config)), " ")
	for _, part := range []string{"close 8080, 21001-21255", "tcp [::]:8080 app (pid ", ", 1 connection from the network, ended, in quarantine for web",
		"kernel: hostagent-cut", "+8080"} {
		if !strings.Contains(plan, part) {
			t.Errorf("the plan lacks %q:\n%s", part, plan)
		}
	}
	w.must(os.WriteFile(config, []byte("mode = \"observe\"\n"+closing("8081", `"web"`)), 0o600))
	scan := strings.Join(strings.Fields(w.hostagent(1, "scan", "--config", config)), " ")
	if want := "port 8080 of web is not closed to the network: it is not in quarantine_ports"; !strings.Contains(scan, want) {
		t.Errorf("the scan lacks %q:\n%s", want, scan)
	}
	w.lives("a connection in observe mode", running, true)
	w.reaches(8080, host.Open)
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("observe mode owns rules:\n%s", show)
	}
}

// TestQuarantineOutlivesCrashes kills hostagent, and restarts the agent under it, while the network tries without pause.
func TestQuarantineOutlivesCrashes(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("web", 8080, "[::]:8080")
	running := w.call(w.Net, at(host.IPv4, 8080))
	config := closing("8080", `"web"`)
	agent := w.guard(config)
	w.guardsPort(8080)

	stop, done := make(chan struct{}), make(chan []string)
	go func() {
		var seen []string
		for {
			select {
			case <-stop:
				done <- seen
				return
			default:
			}
			if reach, err := w.Reachable(w.ctx, at(host.IPv4, 8080)); err != nil || reach != host.Dropped {
				seen = append(seen, fmt.Sprintf("%s %v", reach, err))
			}
		}
	}()
	for range 2 {
		w.must(agent.Kill())
		agent = w.start(quick+config, "--mode", "guard")
		w.must(agent.WaitLog(w.ctx, "adopted the rules of an earlier run"))
		w.must(agent.WaitLog(w.ctx, `msg="port quarantined" port=8080 service=web`))
		time.Sleep(2500 * time.Millisecond) // past the moment in which the answers settle
	}
	w.must(w.consul.Restart(w.ctx))
	time.Sleep(3 * time.Second)
	close(stop)
	if seen := <-done; len(seen) > 0 {
		t.Errorf("meanwhile the port was %d times not closed: %s", len(seen), strings.Join(seen[:min(len(seen), 3)], ", "))
	}
	w.lives("a connection of before", running, false)
	if text := agent.Log(); strings.Contains(text, "released") {
		t.Errorf("a quarantine was released:\n%s", text)
	}
	w.reaches(sidecar, host.Open)
}

// TestConnectionsToClosedSidecars ends running connections when the registration of a sidecar has gone for close_delay, and
// only with cut_on_close.
func TestConnectionsToClosedSidecars(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{true, false} {
		for _, variant := range variants() {
			t.Run(fmt.Sprintf("cut=%v/%s", cut, variant), func(t *testing.T) { testCutOnClose(t, cut, variant) })
		}
	}
}

func testCutOnClose(t *testing.T, cut bool, variant string) {
	w := newWorld(t, host.ConsulOptions{})
	plain, translated := w.register("web", 8080, 0), w.register("api", 8081, 0)
	stays := w.register("stays", 8082, 0)
	const squatted = 21200
	sidecars, err := w.StartApp(w.ctx, host.App{Name: "sidecars", Listen: []string{
		fmt.Sprintf("[::]:%d", plain), fmt.Sprintf("[::]:%d", stays), fmt.Sprintf("[::]:%d", squatted),
	}})
	w.must(err)
	binary, err := host.Binary(w.ctx, host.AppProgram)
	w.must(err)
	container, err := w.Start("container", w.Net.Command(context.Background(), binary, "-name", "container", "-listen", "[::]:7000"))
	w.must(err)
	w.must(container.WaitLog(w.ctx, "ready\n"))
	w.must(w.InHost(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	for _, rule := range []string{
		fmt.Sprintf("-A PREROUTING -p tcp --dport %d -j DNAT --to-destination %s:7000", translated, host.NetIPv4),
		"-A POSTROUTING -p tcp -d " + host.NetIPv4 + " --dport 7000 -j MASQUERADE",
	} {
		w.run("iptables-"+variant, append([]string{"-w", "5", "-t", "nat"}, strings.Fields(rule)...)...)
	}
	squatter := w.call(w.Net, at(host.IPv4, squatted))
	w.start(usingVariant(variant)+fmt.Sprintf("close_delay = \"1s\"\npoll_interval = \"200ms\"\ncut_on_close = %v\n", cut), "--mode", "guard")
	w.guarded()
	calls := map[string]*call{
		"IPv4": w.call(w.Net, at(host.IPv4, plain)), "IPv6": w.call(w.Net, at(host.IPv6, plain)),
		"DNAT": w.call(w.Net, at(host.IPv4, translated)),
	}
	other := w.call(w.Net, at(host.IPv4, stays))
	own := w.call(w.Local, at(host.IPv4, plain))
	for name, c := range calls {
		w.lives("before, the connection over "+name, c, true)
	}
	w.must(w.consul.API().Agent().ServiceDeregister("web"))
	w.must(w.consul.API().Agent().ServiceDeregister("api"))
	w.eventually(plain, host.Dropped, 10*time.Second)
	if _, err := w.EventuallyReach(w.ctx, at(host.IPv4, translated), host.Dropped, 10*time.Second); err != nil {
		t.Error(err)
	}
	for name, c := range calls {
		w.lives("after the port has closed, the connection over "+name, c, !cut)
	}
	w.lives("a connection to another sidecar", other, true)
	w.lives("the host's own connection", own, true)
	w.lives("a connection to a squatter, whose port was never open", squatter, true)

	// The host's own outgoing connections live on, though their source port is the closed one.
	w.must(sidecars.Stop())
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	for _, address := range []string{host.NetIPv4, host.NetIPv6} {
		conn, err := w.Local.DialFrom(ctx, "tcp", plain, at(address, 7000))
		w.must(err)
		if greeting, err := host.Hello(ctx, conn); err != nil || greeting != "hello from container" {
			t.Errorf("from port %d to %s: %q, %v", plain, address, greeting, err)
		}
		conn.Close()
	}

	// Registered again, the port opens again and nothing of it is cut.
	w.must(sidecars.Rebind(w.ctx, fmt.Sprintf("[::]:%d", plain)))
	w.register("web", 8080, int(plain))
	w.eventually(plain, host.Open, 10*time.Second)
	w.lives("a connection to the port that opened again", w.call(w.Net, at(host.IPv4, plain)), true)
}
