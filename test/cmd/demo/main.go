// SPDX-License-Identifier: MPL-2.0

// Command demo shows hostagent at work on a host made of network namespaces: a real Consul agent, three services, real
// sidecars, and a second namespace that plays the network and tries to connect. It ends by itself and leaves nothing
// behind; KEEP=1 keeps the host until Ctrl-C and serves the Consul UI.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

func main() {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ui, err := uiListener()
	if err == nil {
		err = demo(ui)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func prepare() error {
	if os.Getenv("HOSTAGENT_TEST_BIN_DIR") != "" && os.Getenv("CONSUL_BIN") != "" {
		return nil
	}
	return host.Prepare(context.Background(), os.Stderr, host.AppProgram, host.HostagentProgram)
}

// uiListener returns where the Consul UI is served: on this machine's loopback, which a browser reaches. An ordinary
// user goes on in namespaces of his own from here, and takes the listener along.
func uiListener() (net.Listener, error) {
	if netns.Inside() {
		netns.Enter()
		return net.FileListener(os.NewFile(3, "ui"))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || os.Geteuid() == 0 {
		return listener, err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	netns.Enter(file)
	return nil, errors.New("unreachable: Enter does not return outside")
}

// show is the demo under way.
type show struct {
	*host.Host
	ctx    context.Context //nolint:containedctx // it lives for one demo
	consul *host.Consul
	before []string // what the network saw before hostagent ran
}

func demo(ui net.Listener) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	bounded, cancelBounded := context.WithTimeout(ctx, 3*time.Minute)
	defer cancelBounded()
	h, err := host.New(bounded, host.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	s := &show{Host: h, ctx: bounded}
	for _, act := range []func() error{s.setUp, s.plan, s.guard, s.scan, s.firewall, s.prove, s.checks} {
		if err := act(); err != nil {
			return err
		}
	}
	if os.Getenv("KEEP") == "1" {
		return s.keep(ctx, ui)
	}
	fmt.Println("\nKEEP=1 make demo keeps this host running and serves its Consul UI.")
	return nil
}

func title(format string, args ...any) { fmt.Printf("\n## "+format+"\n\n", args...) }

const (
	webPort, loudPort, squatterPort = 8080, 8081, 21050
	freePort                        = 21200
)

// setUp starts Consul and the services: a clean one, one that listens on the network, and a squatter in the range.
func (s *show) setUp() (err error) {
	title("A host %s with Consul, and services web (clean), loud (on 0.0.0.0) and a squatter on %d", host.IPv4, squatterPort)
	if s.consul, err = s.StartConsul(s.ctx, host.ConsulOptions{NodeName: "demo"}); err != nil {
		return err
	}
	for name, listen := range map[string]string{"web": "127.0.0.1:8080", "loud": "0.0.0.0:8081", "squatter": "0.0.0.0:21050"} {
		if _, err := s.StartApp(s.ctx, host.App{Name: name, Listen: []string{listen}}); err != nil {
			return err
		}
	}
	for _, service := range []struct {
		name string
		port int
	}{{"web", webPort}, {"loud", loudPort}} {
		err := s.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
			Name: service.name, Port: service.port,
			Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
		})
		if err != nil {
			return err
		}
		if _, err := s.StartSidecar(s.ctx, service.name); err != nil {
			return err
		}
	}
	fmt.Println("The host's own firewall drops by default, admits Consul and port 8081, and somebody once opened 21050-21099 by hand:")
	for _, rule := range []string{
		"-A INPUT -i lo -j ACCEPT", "-A INPUT -p tcp --dport 8300:8302 -j ACCEPT", "-A INPUT -p udp --dport 8301:8302 -j ACCEPT",
		"-A INPUT -p tcp --dport 8081 -j ACCEPT",
		"-A INPUT -p tcp --dport 21050:21099 -j ACCEPT", "-P INPUT DROP",
	} {
		fmt.Println("  iptables", rule)
		if _, err := s.Iptables(s.ctx, host.FamilyIPv4, strings.Fields(rule)...); err != nil {
			return err
		}
	}
	s.before, err = s.attempts()
	return err
}

// guard starts hostagent and waits until the range is closed.
func (s *show) guard() error {
	title("hostagent run --mode guard")
	agent, err := s.StartHostagent(s.ctx, "", "--mode", "guard")
	if err != nil {
		return err
	}
	if err := agent.WaitLog(s.ctx, "hostagent-guard +21000-21255"); err != nil {
		return err
	}
	fmt.Print(agent.Log())
	return nil
}

func (s *show) plan() error { return s.hostagent("firewall", "plan") }

func (s *show) scan() error { return s.hostagent("scan") }

func (s *show) firewall() error { return s.hostagent("firewall", "show") }

func (s *show) hostagent(args ...string) error {
	title("hostagent %s", strings.Join(args, " "))
	binary, err := host.Binary(s.ctx, host.HostagentProgram)
	if err != nil {
		return err
	}
	out, code, err := s.Run(s.ctx, binary, args...)
	fmt.Print(out)
	if code != 0 {
		fmt.Printf("(exit status %d)\n", code)
	}
	return err
}

// attempts connects from the network to what matters, and tells what happened.
func (s *show) attempts() ([]string, error) {
	var seen []string
	for _, port := range []int{21000, loudPort, squatterPort, freePort} {
		reach, err := s.Reachable(s.ctx, fmt.Sprintf("%s:%d", host.IPv4, port))
		if err != nil {
			return nil, err
		}
		seen = append(seen, string(reach))
	}
	return seen, nil
}

// prove shows what the network reached before and what it reaches now.
func (s *show) prove() error {
	title("Proof: connections from the network, %s", host.NetIPv4)
	now, err := s.attempts()
	if err != nil {
		return err
	}
	fmt.Printf("%-36s %-9s %s\n", "PORT", "BEFORE", "NOW")
	for i, what := range []string{
		"21000  sidecar of web", "8081   loud, reported but not closed", "21050  squatter", "21200  nobody's port in the range",
	} {
		fmt.Printf("%-36s %-9s %s\n", what, s.before[i], now[i])
	}
	proxy, _, err := s.consul.API().Agent().Service("web-sidecar-proxy", nil)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("%s:%d", host.IPv4, proxy.Port)
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	conn, err := s.MeshDial(ctx, "client", "web", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	greeting, err := host.Hello(ctx, conn)
	if err != nil {
		return err
	}
	fmt.Printf("\nwith mTLS through web's sidecar at %s: %q\n", address, greeting)
	return nil
}

// checks prints what Consul shows of hostagent.
func (s *show) checks() error {
	title("Health checks of service hostagent in Consul")
	checks, _, err := s.consul.API().Health().Checks("hostagent", nil)
	if err != nil {
		return err
	}
	for _, c := range checks {
		fmt.Printf("%-8s %s\n", c.Status, c.Name)
		for line := range strings.Lines(c.Output) {
			fmt.Println(strings.TrimRight("           "+line, " \n"))
		}
	}
	return nil
}

// keep serves the Consul UI until Ctrl-C.
func (s *show) keep(ctx context.Context, ui net.Listener) error {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host.ConsulAddress})
	proxy.Transport = s.HTTPClient().Transport
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ui) }()
	title("The host stays until Ctrl-C")
	fmt.Printf("Consul UI: http://%s/ui/dc1/services/hostagent/instances\n", ui.Addr())
	if os.Geteuid() == 0 && !netns.Inside() {
		fmt.Printf("a shell on the host: ip netns exec %s bash\n", s.Local.Name)
	}
	select {
	case <-ctx.Done():
		return server.Close()
	case err := <-served:
		return err
	}
}
