// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// said lists what a scan says that concerns some findings: id, message and addresses.
func (w *world) said(ids ...string) (lines []string) {
	w.t.Helper()
	var document struct {
		Findings []struct {
			ID, Message string
			ReachableAt []struct{ Address, Interface string } `json:"reachable_at"`
		}
	}
	w.must(json.Unmarshal([]byte(w.hostagent(1, "scan", "--format", "json")), &document))
	for _, f := range document.Findings {
		if !slices.Contains(ids, f.ID) {
			continue
		}
		lines = append(lines, f.ID+": "+f.Message)
		for _, at := range f.ReachableAt {
			if !strings.HasPrefix(at.Address, "fe80:") { // the kernel made it up
				lines = append(lines, "  "+at.Address+" "+at.Interface)
			}
		}
	}
	return lines
}

// TestReachableAt: Consul's API on all addresses, an application on an address that sits on lo, and a sidecar that was
// started for this host only. What is said of each is what the network sees.
func TestReachableAt(t *testing.T) {
	const vip = "10.9.9.9"
	w := newWorld(t, host.ConsulOptions{ClientAddr: "0.0.0.0", Config: "ports { grpc = 8502 }"})
	for _, script := range []struct {
		in   *host.Namespace
		line []string
	}{
		{w.Local, []string{"ip", "addr", "add", vip + "/32", "dev", "lo"}},
		{w.Net, []string{"ip", "route", "add", vip, "via", host.IPv4}},
	} {
		if out, err := script.in.Command(w.ctx, script.line[0], script.line[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", script.line, err, out)
		}
	}
	w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: 8080, Address: vip,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: 21000, Address: host.IPv4}},
	}))
	_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{vip + ":8080"}})
	w.must(err)
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	sidecar, err := w.Start("sidecar on loopback", w.Command(context.Background(), binary,
		"connect", "proxy", "-service", "web", "-service-addr", vip+":8080", "-listen", "127.0.0.1:21000"))
	w.must(err)
	w.until("the sidecar listens", func() error {
		if listening, err := w.Local.Listening(21000); err != nil || !listening {
			return fmt.Errorf("it does not: %w, %s", err, sidecar.Log())
		}
		return nil
	})
	want := []string{
		"exposed-consul-api: Consul's HTTP API without TLS listens on tcp [::]:8500: the network reaches it at 10.9.9.9 (lo), 10.99.0.1 (eth0) and fd00:99::1 (eth0)",
		"  10.9.9.9 lo", "  10.99.0.1 eth0", "  fd00:99::1 eth0",
		"exposed-consul-api: Consul's gRPC API without TLS listens on tcp [::]:8502: the network reaches it at 10.9.9.9 (lo), 10.99.0.1 (eth0) and fd00:99::1 (eth0)",
		"  10.9.9.9 lo", "  10.99.0.1 eth0", "  fd00:99::1 eth0",
		"exposed-listener: web listens on tcp 10.9.9.9:8080: the network reaches it at 10.9.9.9 (lo) without mTLS and without intentions",
		"  10.9.9.9 lo",
		"sidecar-loopback-only: port 21000 of web-sidecar-proxy listens on tcp 127.0.0.1:21000 only: no other host of the mesh can call it",
	}
	if diff := cmp.Diff(want, w.said("exposed-consul-api", "exposed-listener", "sidecar-loopback-only")); diff != "" {
		t.Errorf("a scan says (-want +got):\n%s", diff)
	}
	for address, want := range map[string]host.Reach{
		vip + ":8080": host.Open, host.IPv4 + ":8080": host.Refused, vip + ":8500": host.Open, host.IPv4 + ":8500": host.Open,
		at(host.IPv6, 8502): host.Open, host.IPv4 + ":21000": host.Refused, vip + ":21000": host.Refused,
	} {
		got, err := w.Reachable(w.ctx, address)
		w.must(err)
		if got != want {
			t.Errorf("from the network %s is %s, want %s", address, got, want)
		}
	}

	// What the remedies ask for.
	w.must(sidecar.Stop())
	_, err = w.StartSidecar(w.ctx, "web")
	w.must(err)
	if said := w.said("sidecar-loopback-only"); said != nil {
		t.Errorf("with the sidecar on the network: %v", said)
	}
}

// TestConsulAPIOnLoopback: what an agent does by itself is as it should be.
func TestConsulAPIOnLoopback(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{Config: `addresses { http = "127.0.0.1" https = "0.0.0.0" }`})
	w.service("web", 8080, "127.0.0.1:8080")
	if out := w.hostagent(0, "scan"); strings.Contains(out, "exposed-consul-api") || strings.Contains(out, "sidecar-loopback-only") {
		t.Errorf("a scan says\n%s", out)
	}
}
