// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// crowd is a settled host with many services, each with a sidecar and both listening, and with as many listeners in all
// as given. The applications listen on address.
func crowd(services, listeners int, address netip.Addr) Input {
	in := base()
	in.Agent.SidecarMin, in.Agent.SidecarMax = 21000, 21000+max(services, 256)-1
	in.Registrations, in.Listeners = nil, nil
	listen := func(address netip.Addr, port int) {
		in.Listeners = append(in.Listeners, sockets.Listener{
			Protocol: sockets.TCP, Addr: netip.AddrPortFrom(address, uint16(port)), UID: 1000, Cookie: uint64(len(in.Listeners) + 1),
		})
	}
	for i := range services {
		name := fmt.Sprintf("service-%04d", i)
		in.Registrations = append(in.Registrations, app(name, 30000+i), sidecar(name, 21000+i))
		listen(address, 30000+i)
		listen(netip.IPv6Unspecified(), 21000+i)
	}
	for i := range listeners - len(in.Listeners) {
		listen(netip.MustParseAddr("127.0.0.1"), 40000+i)
	}
	return in
}

// BenchmarkEvaluate decides over hosts of several sizes, healthy ones and one on which every application is exposed.
func BenchmarkEvaluate(b *testing.B) {
	for _, size := range []struct {
		name                string
		services, listeners int
		address             string
		findings            int // with the one that the range is nearly full
	}{
		{"250-services", 250, 2000, "127.0.0.1", 1},
		{"250-services-exposed", 250, 2000, "0.0.0.0", 251},
		{"4000-services", 4000, 10000, "127.0.0.1", 1},
	} {
		b.Run(size.name, func(b *testing.B) {
			in := crowd(size.services, size.listeners, netip.MustParseAddr(size.address))
			b.ReportAllocs()
			for b.Loop() {
				result := Evaluate(in)
				if len(result.Openings) != size.services || len(result.Findings) != size.findings {
					b.Fatalf("%d openings and %d findings", len(result.Openings), len(result.Findings))
				}
			}
		})
	}
}

// BenchmarkChecks writes the texts that Consul shows, as every pass does.
func BenchmarkChecks(b *testing.B) {
	for _, size := range []struct {
		name                string
		services, listeners int
		address             string
	}{
		{"250-services", 250, 2000, "127.0.0.1"},
		{"250-services-exposed", 250, 2000, "0.0.0.0"},
		{"4000-services-exposed", 4000, 10000, "0.0.0.0"},
	} {
		b.Run(size.name, func(b *testing.B) {
			agent := NewAgent(newFakeHost().parts(ModeGuard))
			agent.memory.answers, agent.memory.settled, agent.looked = 1, true, true
			agent.result = Evaluate(crowd(size.services, size.listeners, netip.MustParseAddr(size.address)))
			b.ReportAllocs()
			for b.Loop() {
				var report consul.Report
				if report = agent.checks(nil); len(report.Checks) != size.services+2 {
					b.Fatalf("%d checks", len(report.Checks))
				}
			}
		})
	}
}
