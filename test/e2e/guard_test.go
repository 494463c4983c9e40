// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// variants are the iptables that a host may use.
func variants() []string { return []string{"nft", "legacy"} }

func usingVariant(variant string) string {
	return fmt.Sprintf("firewall {\n  iptables_variant = %q\n}\n", variant)
}

// neighbours are all ports of the sidecar range but one, as addresses for an application.
func neighbours(but uint16) (ports []uint16, listen []string) {
	for port := uint16(21000); port <= 21255; port++ {
		if port != but {
			ports = append(ports, port)
			listen = append(listen, fmt.Sprintf("[::]:%d", port))
		}
	}
	return ports, listen
}

// count tries ports from the network, all at once, on both families, and counts what it sees.
func (w *world) count(ports []uint16) map[host.Reach]int {
	w.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	counts := map[host.Reach]int{}
	tickets := make(chan struct{}, 64)
	for _, port := range ports {
		for _, address := range both() {
			wg.Go(func() {
				tickets <- struct{}{}
				defer func() { <-tickets }()
				seen, err := w.Reachable(w.ctx, at(address, port))
				if err != nil {
					w.t.Error(err)
				}
				mu.Lock()
				counts[seen]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	return counts
}

// meshWorks wants the service's greeting through its sidecar with mTLS, and nothing without a client certificate.
func (w *world) meshWorks(service string, port uint16) {
	w.t.Helper()
	for _, address := range both() {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		conn, err := w.MeshDial(ctx, "client", service, at(address, port))
		w.must(err)
		greeting, err := host.Hello(ctx, conn)
		w.must(err)
		if want := "hello from " + service; greeting != want {
			w.t.Errorf("through the mesh %s says %q, want %q", address, greeting, want)
		}
		conn.Close()

		plain, err := w.Net.Dial(ctx, "tcp", at(address, port))
		w.must(err)
		anonymous := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
		if greeting, err := host.Hello(ctx, anonymous); err == nil {
			w.t.Errorf("without a client certificate %s says %q", address, greeting)
		}
		plain.Close()
		cancel()
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		for _, policy := range []string{"ACCEPT", "DROP"} {
			t.Run(variant+"/"+policy, func(t *testing.T) {
				w := newWorld(t, host.ConsulOptions{})
				_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
				closed, listen := neighbours(sidecar)
				_, err := w.StartApp(w.ctx, host.App{Name: "everywhere", Listen: listen})
				w.must(err)
				if policy == "ACCEPT" {
					if counts := w.count(closed); counts[host.Open] != 510 {
						t.Fatalf("before the guard the network must reach all 255 neighbours on both families, saw %v", counts)
					}
				} else {
					w.defaultDrop(variant)
					w.reaches(sidecar, host.Dropped)
				}
				w.guard(usingVariant(variant))

				w.meshWorks("web", sidecar)
				if counts := w.count(closed); counts[host.Dropped] != 510 {
					t.Errorf("the network must reach none of the 255 neighbours, saw %v", counts)
				}
				// Inside the host everything is as before.
				conn, err := w.Local.Dial(w.ctx, "tcp", at("127.0.0.1", closed[7]))
				w.must(err)
				if greeting, err := host.Hello(w.ctx, conn); err != nil || greeting != "hello from everywhere" {
					t.Errorf("over loopback: %q, %v", greeting, err)
				}
				conn.Close()
				w.checkTurns("firewall", "passing", "Guarded: 21000-21255\nOpen:    ")
			})
		}
	}
}

// defaultDrop gives the host an INPUT policy of DROP and nothing but what every such host has: loopback, without which
// neither Consul's API nor an application behind its sidecar can be called, and IPv6 neighbour discovery.
func (w *world) defaultDrop(variant string) {
	w.t.Helper()
	for _, program := range []string{"iptables-" + variant, "ip6tables-" + variant} {
		rules := [][]string{{"-A", "INPUT", "-i", "lo", "-j", "ACCEPT"}, {"-P", "INPUT", "DROP"}}
		if strings.HasPrefix(program, "ip6") {
			rules = append(rules, []string{"-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"})
		}
		for _, rule := range rules {
			w.run(program, append([]string{"-w", "5"}, rule...)...)
		}
	}
}

// run runs a program in the host and wants it to succeed.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, code, err := w.Run(w.ctx, name, args...)
	w.must(err)
	if code != 0 {
		w.t.Fatalf("%s %s ended with %d:\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

func TestTranslatedPortsDoNotGetRoundTheGuard(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			iptables := "iptables-" + variant
			nat := func(rule string) {
				t.Helper()
				w.run(iptables, append([]string{"-w", "5", "-t", "nat"}, strings.Fields(rule)...)...)
			}
			_, err := w.StartApp(w.ctx, host.App{Name: "inside", Listen: []string{"0.0.0.0:21055", "0.0.0.0:8080"}})
			w.must(err)
			// A container's port: another address than the host's, here one in the network namespace.
			binary, err := host.Binary(w.ctx, host.AppProgram)
			w.must(err)
			_, err = w.Start("container", w.Net.Command(context.Background(), binary, "-name", "container", "-listen", host.NetIPv4+":7000"))
			w.must(err)
			w.must(w.InHost(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
			nat("-A PREROUTING -i eth0 -p tcp --dport 9999 -j REDIRECT --to-ports 21055")
			nat("-A PREROUTING -i eth0 -p tcp --dport 21078 -j REDIRECT --to-ports 8080")
			nat("-A PREROUTING -i eth0 -p tcp --dport 21079 -j DNAT --to-destination " + host.NetIPv4 + ":7000")
			nat("-A POSTROUTING -p tcp -d " + host.NetIPv4 + " --dport 7000 -j MASQUERADE")
			// Somebody's accept in front of everything in filter INPUT must not help either.
			w.run(iptables, "-w", "5", "-I", "INPUT", "-p", "tcp", "-j", "ACCEPT")
			translated := map[uint16]string{9999: "REDIRECT into the range", 21078: "REDIRECT out of the range", 21079: "DNAT to a container"}
			for port, name := range translated {
				if _, err := w.EventuallyReach(w.ctx, at(host.IPv4, port), host.Open, 5*time.Second); err != nil {
					t.Fatalf("%s does not work before the guard, so its test proves nothing: %v", name, err)
				}
			}
			w.guard(usingVariant(variant))
			for port, name := range translated {
				got, err := w.Reachable(w.ctx, at(host.IPv4, port))
				w.must(err)
				if got != host.Dropped {
					t.Errorf("%s: port %d is %s from the network", name, port, got)
				}
			}
			if got, err := w.Reachable(w.ctx, at(host.IPv4, 8080)); err != nil || got != host.Open {
				t.Errorf("a port that is none of ours is %s, %v", got, err)
			}
		})
	}
}

func TestOutgoingConnectionFromAPortOfTheRange(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.guard("")
	binary, err := host.Binary(w.ctx, host.AppProgram)
	w.must(err)
	server, err := w.Start("server", w.Net.Command(context.Background(), binary, "-name", "server", "-listen", "[::]:7001"))
	w.must(err)
	w.must(server.WaitLog(w.ctx, "ready\n"))
	for _, address := range []string{host.NetIPv4, host.NetIPv6} {
		conn, err := w.Local.DialFrom(w.ctx, "tcp", 21100, at(address, 7001))
		w.must(err)
		if greeting, err := host.Hello(w.ctx, conn); err != nil || greeting != "hello from server" {
			t.Errorf("from port 21100 to %s: %q, %v", address, greeting, err)
		}
		conn.Close()
	}
}

func TestSecondSidecarOpensAndClosesInTime(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "127.0.0.1:8080")
	// The shipped poll interval: this is what an operator gets.
	w.start("close_delay = \"4s\"\n", "--mode", "guard")
	w.guarded()
	port := w.register("api", 8081, 0)
	registered := time.Now()
	_, err := w.StartApp(w.ctx, host.App{Name: "api", Listen: []string{fmt.Sprintf("[::]:%d", port)}})
	w.must(err)
	took, err := w.EventuallyReach(w.ctx, at(host.IPv4, port), host.Open, time.Until(registered.Add(2*time.Second)))
	w.must(err)
	t.Logf("open %v after registration", took.Round(time.Millisecond))
	w.reaches(port, host.Open)

	// Deregistered, it stays open for close_delay (4 s) and closes then.
	w.must(w.consul.API().Agent().ServiceDeregister("api"))
	gone := time.Now()
	for time.Since(gone) < 3500*time.Millisecond {
		w.reaches(port, host.Open)
		time.Sleep(100 * time.Millisecond)
	}
	w.eventually(port, host.Dropped, 5*time.Second)
}
