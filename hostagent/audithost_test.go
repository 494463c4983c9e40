// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// noOwners sees every process, and none holds anything.
type noOwners struct{}

func (noOwners) Lookup(context.Context, []sockets.Listener) (sockets.Result, error) {
	return sockets.Result{}, nil
}

// dropping is a firewall of the host that keeps the network from some ports, in all versions of IP.
func dropping(ports ...uint16) func(context.Context, []firewall.Probe) ([]firewall.Block, error) {
	return func(_ context.Context, probes []firewall.Probe) ([]firewall.Block, error) {
		var blocks []firewall.Block
		for _, p := range probes {
			if slices.Contains(ports, p.Port) {
				b := blockedBy(firewall.ToolNFT, "inet filter input", p.Port)
				b.Probe = p
				blocks = append(blocks, b)
			}
		}
		return blocks, nil
	}
}

// hostText is the part of a host that hangs on firewalls and sockets, a line each.
func hostText(h audit.Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mode %s range %d-%d off %t\n", h.Mode, h.First, h.Last, h.RangeOff)
	if h.NoServices+h.NoOwners != "" {
		fmt.Fprintf(&b, "services %q owners %q\n", h.NoServices, h.NoOwners)
	}
	for by, ports := range portsBy(h) {
		fmt.Fprintf(&b, "%s: %s\n", by, ports)
	}
	if !h.Ports.Known {
		fmt.Fprintf(&b, "ports: %s; %s\n", h.Ports.Reason, h.Ports.Needs)
	}
	if !h.Firewalls.Known {
		fmt.Fprintf(&b, "firewalls: %s\n", h.Firewalls.Reason)
	}
	for _, p := range append(slices.Clone(h.Exposed.Value), h.Peers.Value...) {
		fmt.Fprintf(&b, "%s %s closed %t\n", p.Name, p.Listener, p.Closed)
	}
	for _, f := range h.Findings {
		fmt.Fprintf(&b, "%s %s firewall %t held %q exemption %q\n", f.ID, f.State, f.Firewall, f.HeldBy, f.Exemption)
	}
	for _, s := range h.Services {
		fmt.Fprintf(&b, "%s in %d at %s calls %s unix %t\n", s.Name, s.Namespace, s.Listeners, s.Upstreams, s.UnixOnly)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// portsBy sorts ports by what is done to them.
func portsBy(h audit.Host) map[string]string {
	sets := map[string]*firewall.PortSet{}
	for _, p := range h.Ports.Value {
		key := "open"
		if p.Closed {
			key = "closed by " + p.By
		}
		if p.Assigned {
			key = "sidecar, " + key
		}
		if sets[key] == nil {
			sets[key] = &firewall.PortSet{}
		}
		sets[key].Add(p.Number)
	}
	texts := map[string]string{}
	for key, set := range sets {
		texts[key] = set.String()
	}
	return texts
}

func TestAuditHost(t *testing.T) {
	const (
		web  = "\nweb in 0 at [127.0.0.1:8080] calls [] unix false"
		drop = `chain "input" of table inet "filter" (policy drop)`
	)
	guards := func(h *fakeHost, _ *Parts) {
		h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000)}, true
	}
	for name, test := range map[string]struct {
		change func(*fakeHost, *Parts)
		want   string
	}{
		"guarded": {guards, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nsidecar, open: 21000" + web},
		"our accept stands": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			p.Blocked = func(ctx context.Context, probes []firewall.Probe) ([]firewall.Block, error) {
				return dropping(21000)(ctx, slices.DeleteFunc(slices.Clone(probes), func(p firewall.Probe) bool { return p.Open }))
			}
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nsidecar, open: 21000" + web},
		"nothing closes it": {func(_ *fakeHost, p *Parts) { p.Policy.Mode = ModeObserve },
			"mode observe range 21000-21255 off false\nopen: 21001-21255\nsidecar, open: 21000" + web},
		"another firewall closes some": {func(_ *fakeHost, p *Parts) { p.Blocked = dropping(21000, 21005) },
			"closed by " + drop + ": 21005\nmode guard range 21000-21255 off false\nopen: 21001-21004, 21006-21255\nopening-blocked open firewall false held \"\" exemption \"\"\nsidecar, closed by " + drop + ": 21000" + web},
		"another firewall in one version of IP": {func(_ *fakeHost, p *Parts) {
			p.Blocked = func(context.Context, []firewall.Probe) ([]firewall.Block, error) {
				b := blockedBy(firewall.ToolNFT, "ip filter input", 21005, firewall.IPv4)
				b.Protocol = firewall.TCP
				return []firewall.Block{b}, nil
			}
		}, "mode guard range 21000-21255 off false\nopen: 21001-21255\nsidecar, open: 21000" + web},
		"no firewall at hand": {func(_ *fakeHost, p *Parts) { p.Firewall, p.Blocked = nil, nil },
			"firewalls: other firewalls of this host were not looked at\nmode guard range 21000-21255 off false\nports: the firewall was not looked at; run as root" + web},
		"other firewalls fail": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			p.Blocked = func(context.Context, []firewall.Probe) ([]firewall.Block, error) { return nil, errors.New("no answer") }
		}, "closed by hostagent's guard: 21001-21255\nfirewalls: no answer\nmode guard range 21000-21255 off false\nsidecar, open: 21000" + web},
		"other firewalls fail, and the guard does not hold": {func(_ *fakeHost, p *Parts) {
			p.Blocked = func(context.Context, []firewall.Probe) ([]firewall.Block, error) { return nil, errors.New("no answer") }
		}, "firewalls: no answer\nmode guard range 21000-21255 off false\nports: no answer; run as root" + web},
		"no range": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.facts.SidecarMin, h.facts.SidecarMax = -1, -1
		}, "mode guard range 0-0 off true\nsidecar, open: 21000" + web},
		"an agent that does not tell its range": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.facts = consul.Agent{}
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 0-0 off false\nsidecar, open: 21000" + web},
		"an agent that is down": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.regs, h.fails = nil, &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nopen: 21000\nservices \"refused\" owners \"\""},
		"processes out of sight": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			p.Owners = nil
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nservices \"\" owners \"nobody looked who holds sockets\"\nsidecar, open: 21000" + web},
		"ports of Consul": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.facts.Ports = map[string]uint16{"dns": 8600, "https": 8501, "serf_lan": 8301, "grpc_tls": 8503}
			h.listeners = append(h.listeners, listeners("tcp 0.0.0.0:8600", "udp 0.0.0.0:8600", "tcp 127.0.0.1:8501", "tcp [::]:8503", "tcp 0.0.0.0:8301", "udp 0.0.0.0:8301")...)
			p.Blocked = dropping(8503)
		}, "closed by hostagent's guard: 21001-21255\ndns tcp 0.0.0.0:8600 closed false\ndns udp 0.0.0.0:8600 closed false\n" +
			"grpc_tls tcp [::]:8503 closed true\nmode guard range 21000-21255 off false\nserf_lan tcp port 8301 closed false\nserf_lan udp port 8301 closed false\nsidecar, open: 21000" + web},
		"ports of a server": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.facts.Server, h.facts.Ports = true, map[string]uint16{"https": 8501, "server": 8300, "serf_wan": 8302}
			h.listeners = append(h.listeners, listeners("tcp [::]:8501", "tcp [::]:8300", "tcp [::]:8302", "udp [::]:8302")...)
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nserf_wan tcp port 8302 closed false\nserf_wan udp port 8302 closed false\n" +
			"server tcp port 8300 closed false\nsidecar, open: 21000" + web},
		"exposed, and held": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
			p.Blocked = dropping(8080)
		}, "closed by hostagent's guard: 21001-21255\nexposed-listener open firewall false held \"" + strings.ReplaceAll(drop, `"`, `\"`) + "\" exemption \"\"\n" +
			"mode guard range 21000-21255 off false\nsidecar, open: 21000\nweb in 0 at [0.0.0.0:8080] calls [] unix false"},
		"exempt": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
			p.Policy.Exemptions = []Exemption{{Finding: catalog.ExposedListener, Service: "web", Reason: "security group", Firewall: true}}
		}, "closed by hostagent's guard: 21001-21255\nexposed-listener exempt firewall true held \"\" exemption \"security group\"\n" +
			"mode guard range 21000-21255 off false\nsidecar, open: 21000\nweb in 0 at [0.0.0.0:8080] calls [] unix false"},
		"upstreams": {func(h *fakeHost, p *Parts) {
			guards(h, p)
			h.regs[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 9191}, {Name: "api", Address: "127.0.0.2", Port: 9192}, {Name: "none"}}
			h.regs[1].Proxy.LocalServiceSocket, h.listeners = "/run/web.sock", listeners("tcp [::]:21000")
		}, "closed by hostagent's guard: 21001-21255\nmode guard range 21000-21255 off false\nsidecar, open: 21000\n" +
			"web in 0 at [] calls [api on 127.0.0.2:9192 db on 127.0.0.1:9191] unix true"},
	} {
		h := newFakeHost()
		parts := h.parts(ModeGuard)
		parts.Owners, parts.Blocked = noOwners{}, dropping()
		h.facts.Ports = map[string]uint16{"http": 8500}
		test.change(h, &parts)
		scan, err := Look(t.Context(), parts)
		if err != nil {
			t.Fatal(err)
		}
		got := scan.AuditHost(t.Context())
		if !got.Known {
			t.Fatalf("%s: %+v", name, got)
		}
		if diff := cmp.Diff(test.want, hostText(got.Value)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if got := new(Scan).AuditHost(t.Context()); got.Known {
		t.Error("a scan that was never made knows its host")
	}
}
