// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// bearsOnNone are the findings that are of no item: the exposure that quarantine refuses to close is a finding of its own, what
// became of a drift is seen in the kernel, and the others say that services are not known.
func bearsOnNone() []catalog.ID {
	return []catalog.ID{
		catalog.QuarantineRefused, catalog.FirewallDrift, catalog.RegistrationsFiltered, catalog.AgentImpostor, catalog.AgentNotLocal,
	}
}

// TestEveryFindingBears: whoever adds a finding decides which item it is about, or that it is about none.
func TestEveryFindingBears(t *testing.T) {
	for _, entry := range catalog.Entries() {
		item, open := bears(entry.ID)
		none := slices.Contains(bearsOnNone(), entry.ID)
		switch _, known := catalog.LookupItem(item); {
		case item == "" && !none:
			t.Errorf("%s bears on no item, and is not listed so", entry.ID)
		case item != "" && (none || !known):
			t.Errorf("%s bears on %s, which is listed as none or unknown", entry.ID, item)
		case item != "" && open != Fail && open != Warn:
			t.Errorf("%s is %q while it is open", entry.ID, open)
		}
	}
}

// soundHost is a host on which everything was seen and nothing is wrong.
func soundHost() Host {
	return Host{
		Mode: "guard", First: 21000, Last: 21002,
		Ports: Known([]Port{
			{Number: 21000, InRange: true, Assigned: true},
			{Number: 21001, InRange: true, Closed: true, By: "hostagent's guard"}, {Number: 21002, InRange: true, Closed: true, By: "hostagent's guard"},
		}),
		Exposed: Known([]ConsulPort(nil)), Peers: Known([]ConsulPort{{Name: "serf_lan", Listener: "udp 0.0.0.0:8301"}, {Name: "serf_lan", Listener: "tcp 0.0.0.0:8301"}}),
		Services:  []Service{{Name: "web", Listeners: []string{"127.0.0.1:8080"}, Upstreams: []string{"db on 127.0.0.1:9191"}}},
		Firewalls: Known(true), Ephemeral: Known("32768-60999"),
	}
}

// text is rows as a test has them: what passes by its id, of the others everything.
func text(r Report, ids ...catalog.ID) string {
	var b strings.Builder
	for _, row := range r.Rows {
		if len(ids) > 0 && !slices.Contains(ids, row.ID) {
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", row.ID, row.Status)
		for _, found := range row.Found {
			fmt.Fprintf(&b, "  %s\n", found)
		}
		if row.Needs != "" {
			fmt.Fprintf(&b, "  needs: %s\n", row.Needs)
		}
		if row.Remedy != "" {
			fmt.Fprintf(&b, "  remedy: %s\n", row.Remedy)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func ofHost() []catalog.ID {
	return []catalog.ID{
		catalog.RangeClosed, catalog.RangeFree, catalog.RangeReserved, catalog.SidecarPorts, catalog.ConsulReachable, catalog.ConsulUnexposed,
		catalog.AppListeners, catalog.UpstreamListeners, catalog.ProxyAdmin, catalog.LoopbackTenancy,
	}
}

func TestSoundHost(t *testing.T) {
	const want = `range-closed pass
  ports 21001-21002 are closed by hostagent's guard
range-free pass
  nothing but registered sidecars, and what they explain, listens on 21000-21002
range-reserved pass
  the kernel takes source ports from 32768-60999 without reserved ones, and no other allocator was found for 21000-21002
sidecar-ports pass
  no firewall of this host keeps the network from port 21000
consul-ports-reachable pass
  no firewall of this host keeps the network from serf_lan (tcp 0.0.0.0:8301), serf_lan (udp 0.0.0.0:8301)
consul-ports-unexposed pass
  no port of Consul that peers do without listens on the network
app-listeners pass
  web listens on 127.0.0.1:8080
upstream-listeners pass
  web calls db on 127.0.0.1:9191
proxy-admin pass
  no sidecar listens on the network for anything but the mesh
loopback-tenancy pass
  no two mesh services share a loopback`
	if diff := cmp.Diff(want, text(Evaluate(Input{Host: Known(soundHost())}), ofHost()...)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestNothingPassesUnseen takes one thing that was seen away at a time: the rows that hang on it are unknown and say why, and
// all others stay as they are.
func TestNothingPassesUnseen(t *testing.T) {
	before := Evaluate(Input{Host: Known(soundHost())})
	for name, test := range map[string]struct {
		hide func(*Host)
		rows []catalog.ID
	}{
		"registrations": {func(h *Host) { h.NoServices, h.Services = "the agent is down", nil }, []catalog.ID{
			catalog.RangeFree, catalog.SidecarPorts, catalog.AppListeners, catalog.UpstreamListeners, catalog.ProxyAdmin, catalog.LoopbackTenancy,
		}},
		"processes": {func(h *Host) { h.NoOwners = "no CAP_SYS_PTRACE" }, []catalog.ID{catalog.AppListeners, catalog.UpstreamListeners, catalog.ProxyAdmin}},
		"the kernel": {func(h *Host) { h.Ports = Unseen[[]Port]("not root", "run as root") }, []catalog.ID{
			catalog.RangeClosed, catalog.SidecarPorts,
		}},
		"other firewalls": {func(h *Host) { h.Firewalls = Unseen[bool]("not root", "run as root") }, []catalog.ID{catalog.SidecarPorts, catalog.ConsulReachable}},
		"the range": {func(h *Host) { h.First, h.Last = 0, 0 }, []catalog.ID{
			catalog.RangeClosed, catalog.RangeFree, catalog.RangeReserved,
		}},
		"settings of the kernel": {func(h *Host) { h.Ephemeral = Unseen[string]("no /proc", "") }, []catalog.ID{catalog.RangeReserved}},
		"ports of Consul": {func(h *Host) {
			h.Exposed, h.Peers = Unseen[[]ConsulPort]("denied", "agent:read"), Unseen[[]ConsulPort]("denied", "agent:read")
		}, []catalog.ID{catalog.ConsulReachable, catalog.ConsulUnexposed}},
	} {
		h := soundHost()
		test.hide(&h)
		after := Evaluate(Input{Host: Known(h)})
		for i, row := range after.Rows {
			hidden := slices.Contains(test.rows, row.ID)
			if hidden && (row.Status != Unknown || len(row.Found) == 0) || !hidden && row.Status != before.Rows[i].Status {
				t.Errorf("without %s: %s", name, text(after, row.ID))
			}
		}
	}
	for _, row := range Evaluate(Input{}).Rows {
		if row.Status == Pass || row.Status == NotApplicable {
			t.Errorf("where nothing was seen: %s %s %q", row.ID, row.Status, row.Found)
		}
	}
}

func TestHost(t *testing.T) {
	found := func(id catalog.ID, change ...func(*Finding)) func(*Host) {
		f := Finding{ID: id, State: "open", Message: "something is wrong", Remedy: "mend it"}
		for _, c := range change {
			c(&f)
		}
		return func(h *Host) { h.Findings = append(h.Findings, f) }
	}
	state := func(state string) func(*Finding) { return func(f *Finding) { f.State, f.Exemption = state, "because" } }
	for name, test := range map[string]struct {
		change func(*Host)
		want   string // the row that is not as on a sound host
	}{
		"range open in observe mode": {func(h *Host) {
			h.Mode = "observe"
			h.Ports.Value[1].Closed = false
		}, `range-closed fail
  nothing closes port 21001 to the network, which no sidecar has: hostagent runs with mode = "observe", and no rule of nf_tables does; rules of iptables-legacy are not read
  port 21002 is closed by hostagent's guard
  remedy: run hostagent with mode = "guard"`},
		"range open in guard mode": {func(h *Host) { h.Ports.Value[1].Closed, h.Ports.Value[2].Closed = false, false }, `range-closed fail
  nothing closes ports 21001-21002 to the network, which no sidecar has, although hostagent is configured with mode = "guard", and no rule of nf_tables does; rules of iptables-legacy are not read
  remedy: hostagent status says what keeps the guard from holding; hostagent firewall show prints its rules`},
		"sidecar blocked": {func(h *Host) {
			h.Ports.Value[0].Closed, h.Ports.Value[0].By = true, `chain "input" of table inet "filter" (policy drop)`
		}, `sidecar-ports fail
  port 21000 of a registered sidecar is closed by chain "input" of table inet "filter" (policy drop)
  remedy: hostagent scan says which firewall or registration keeps a port closed`},
		"sidecars blocked by two": {func(h *Host) {
			h.Ports.Value = append(h.Ports.Value, Port{Number: 20000, Assigned: true, Closed: true, By: "one"}, Port{Number: 20001, Assigned: true, Closed: true, By: "two"},
				Port{Number: 20002, Assigned: true, Closed: true, By: "two"})
		}, `sidecar-ports fail
  port 20000 of a registered sidecar is closed by one
  ports 20001-20002 of registered sidecars are closed by two
  remedy: hostagent scan says which firewall or registration keeps a port closed`},
		"saved rules, and an open range": {func(h *Host) {
			found(catalog.SavedRules)(h)
			h.Ports.Value[1].Closed = false
		}, `range-closed fail
  nothing closes port 21001 to the network, which no sidecar has, although hostagent is configured with mode = "guard", and no rule of nf_tables does; rules of iptables-legacy are not read
  port 21002 is closed by hostagent's guard
  something is wrong
  remedy: hostagent status says what keeps the guard from holding; hostagent firewall show prints its rules`},
		"a sidecar that does not listen, behind a firewall": {func(h *Host) {
			found(catalog.SidecarNotListening)(h)
			h.Ports.Value[0].Closed, h.Ports.Value[0].By = true, "policy drop"
		}, `sidecar-ports fail
  port 21000 of a registered sidecar is closed by policy drop
  something is wrong
  remedy: hostagent scan says which firewall or registration keeps a port closed`},
		"squatter": {found(catalog.SquattedPort), "range-free fail\n  something is wrong\n  remedy: mend it"},
		"shared":   {found(catalog.RangeShared), "range-reserved fail\n  something is wrong\n  remedy: mend it"},
		"full":     {found(catalog.RangeNearlyFull), "sidecar-ports warn\n  something is wrong\n  remedy: mend it"},
		"gossip":   {found(catalog.ConsulPortBlocked), "consul-ports-reachable fail\n  something is wrong\n  remedy: mend it"},
		"dns": {func(h *Host) {
			h.Exposed.Value = []ConsulPort{{Name: "dns", Listener: "udp 0.0.0.0:8600"}, {Name: "https", Listener: "tcp 0.0.0.0:8501"}}
		}, `consul-ports-unexposed fail
  Consul's dns listens on udp 0.0.0.0:8600
  Consul's https listens on tcp 0.0.0.0:8501
  remedy: bind DNS and the plain APIs to loopback in addresses { }, or close them in the host's firewall`},
		"plain api": {found(catalog.ExposedConsulAPI), "consul-ports-unexposed fail\n  something is wrong\n  remedy: mend it"},
		"exposed":   {found(catalog.ExposedListener), "app-listeners fail\n  something is wrong\n  remedy: mend it"},
		"held by a firewall": {found(catalog.ExposedListener, func(f *Finding) { f.HeldBy = "policy drop" }), `app-listeners warn
  something is wrong; only a firewall of the host keeps the network from it: policy drop
  remedy: mend it`},
		"exempt for a firewall": {found(catalog.ExposedListener, state("exempt"), func(f *Finding) { f.Firewall = true }), `app-listeners warn
  something is wrong; a firewall elsewhere holds it: because
  remedy: bind the application to 127.0.0.1, or let hostagent quarantine the port`},
		"exempt": {found(catalog.ExposedListener, state("exempt")), "app-listeners info\n  something is wrong; exempt: because"},
		"several": {func(h *Host) {
			found(catalog.ExposedListener, state("exempt"))(h)
			found(catalog.ExposedSibling, func(f *Finding) { f.Message, f.Remedy = "another", "move it" })(h)
			found(catalog.ExposedListener)(h)
		}, "app-listeners fail\n  another\n  something is wrong\n  something is wrong; exempt: because\n  remedy: move it; hostagent scan has the remedies of 1 more"},
		"upstream": {found(catalog.ExposedUpstream), "upstream-listeners fail\n  something is wrong\n  remedy: mend it"},
		"admin":    {found(catalog.ExposedAdmin), "proxy-admin fail\n  something is wrong\n  remedy: mend it"},
		"tenants": {func(h *Host) {
			h.Services = append(h.Services, Service{Name: "web", Listeners: []string{"127.0.0.1:8081"}},
				Service{Name: "api", Listeners: []string{"127.0.0.1:9090"}}, Service{Name: "far", Namespace: 7})
		}, `loopback-tenancy info
  a process of any of these can call the others over loopback: api (127.0.0.1:9090), web (127.0.0.1:8080, 127.0.0.1:8081)
  each process of the host calls upstream db on 127.0.0.1:9191 as web`},
		"alone":       {func(h *Host) { h.Peers.Value = nil }, "consul-ports-reachable n/a\n  no gossip or RPC port listens on the network: this agent has no peers"},
		"saved rules": {found(catalog.SavedRules), "range-closed warn\n  something is wrong\n  remedy: mend it"},
	} {
		h := soundHost()
		test.change(&h)
		before, after := Evaluate(Input{Host: Known(soundHost())}), Evaluate(Input{Host: Known(h)})
		var changed []catalog.ID
		for i, row := range after.Rows {
			if row.Status != before.Rows[i].Status {
				changed = append(changed, row.ID)
			}
		}
		if len(changed) == 0 {
			t.Errorf("%s: no row says so", name)
			continue
		}
		if diff := cmp.Diff(test.want, text(after, changed...)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestGuardedListenerPasses: what hostagent's guard holds is held, and the row names what does.
func TestGuardedListenerPasses(t *testing.T) {
	h := soundHost()
	h.Findings = []Finding{{ID: catalog.ExposedListener, State: "mitigated", Message: "web listens on tcp 0.0.0.0:8080: only hostagent's guard keeps the network from it"}}
	want := "app-listeners pass\n  web listens on tcp 0.0.0.0:8080: only hostagent's guard keeps the network from it"
	if diff := cmp.Diff(want, text(Evaluate(Input{Host: Known(h)}), catalog.AppListeners)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	h.NoOwners = "no CAP_SYS_PTRACE"
	if r := Evaluate(Input{Host: Known(h)}); !strings.HasPrefix(text(r, catalog.AppListeners), "app-listeners unknown") {
		t.Errorf("with processes out of sight: %s", text(r, catalog.AppListeners))
	}
}

// TestOpenPortOfNobodyKnows: while registrations are not known, an open port may well be a sidecar's.
func TestOpenPortOfNobodyKnows(t *testing.T) {
	h := soundHost()
	h.NoServices, h.Ports.Value[0].Assigned = "the agent is down", false
	const want = `range-closed unknown
  registered services are not known: the agent is down
  nothing closes port 21000, and who is registered there is not known
  needs: a token with service_prefix "" { policy = "read" }, as hostagent acl-policy prints, and an agent that answers`
	if diff := cmp.Diff(want, text(Evaluate(Input{Host: Known(h)}), catalog.RangeClosed)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestClosedPortsOfConsul: what a firewall of the host keeps from the network is not exposed.
func TestClosedPortsOfConsul(t *testing.T) {
	h := soundHost()
	h.Exposed.Value = []ConsulPort{{Name: "dns", Listener: "udp 0.0.0.0:8600", Closed: true}}
	h.Findings = []Finding{{ID: catalog.ExposedConsulAPI, State: "open", Message: "Consul's HTTP API listens", Remedy: "mend it", HeldBy: "policy drop"}}
	const want = `consul-ports-unexposed pass
  Consul's HTTP API listens; only a firewall of the host keeps the network from it: policy drop
  Consul's dns listens on udp 0.0.0.0:8600, and a firewall of this host keeps the network from it`
	if diff := cmp.Diff(want, text(Evaluate(Input{Host: Known(h)}), catalog.ConsulUnexposed)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDisabledRange(t *testing.T) {
	h := soundHost()
	h.RangeOff, h.First, h.Last = true, 0, 0
	h.Ports = Known([]Port{{Number: 20000, Assigned: true}})
	const want = `range-closed n/a
  the agent hands out no sidecar ports (sidecar_min_port and sidecar_max_port are off): each sidecar has an explicit one
range-free n/a
  the agent hands out no sidecar ports (sidecar_min_port and sidecar_max_port are off): each sidecar has an explicit one
range-reserved n/a
  the agent hands out no sidecar ports (sidecar_min_port and sidecar_max_port are off): each sidecar has an explicit one
sidecar-ports pass
  no firewall of this host keeps the network from port 20000`
	got := text(Evaluate(Input{Host: Known(h)}), catalog.RangeClosed, catalog.RangeFree, catalog.RangeReserved, catalog.SidecarPorts)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestIntentions(t *testing.T) {
	running := func(enabled bool, acls string, intentions *string) Seen[consul.Running] {
		return Known(consul.Running{ACLsEnabled: &enabled, ACLDefaultPolicy: &acls, DefaultIntentionPolicy: intentions})
	}
	policy := func(text string) *string { return &text }
	allow := func(source, destination string) consul.Intention {
		return consul.Intention{Source: source, Destination: destination, Allow: true}
	}
	unseen := Unseen[[]consul.Intention]("the token may not read all", `service_prefix "" { intentions = "read" }`)
	const noWildcards = "\nintention-wildcards pass\n  no intention with * allows"
	for name, test := range map[string]struct {
		in   Input
		want string
	}{
		"deny by ACLs": {Input{Running: running(true, "deny", policy("")), Intentions: Known([]consul.Intention{allow("web", "db")})}, `intention-default pass
  the agent runs with acl.default_policy = "deny", which is the default of intentions, too` + noWildcards},
		"an agent before 1.17": {Input{Running: running(true, "deny", nil), Intentions: Known([]consul.Intention(nil))}, `intention-default pass
  the agent runs with acl.default_policy = "deny", which is the default of intentions, too` + noWildcards},
		"allow by ACLs": {Input{Running: running(true, "allow", policy("")), Intentions: Known([]consul.Intention(nil))}, `intention-default n/a
  intentions have the default of ACLs: see acl-default-deny` + noWildcards},
		"no ACLs": {Input{Running: running(false, "allow", policy("")), Intentions: Known([]consul.Intention(nil))}, `intention-default n/a
  ACLs are disabled, and services may talk: see acl-enabled` + noWildcards},
		"set to allow": {Input{Running: running(true, "deny", policy("allow")), Intentions: Known([]consul.Intention(nil))}, `intention-default fail
  the agent runs with default_intention_policy = "allow"
  remedy: write the allow intentions that are needed, then set default_intention_policy = "deny" or acl { default_policy = "deny" }` + noWildcards},
		"a wildcard that denies": {Input{Running: running(false, "allow", nil), Intentions: Known([]consul.Intention{{Source: "*", Destination: "*"}})},
			"intention-default pass\n  the intention from * to * denies" + noWildcards},
		"a wildcard that decides by request": {Input{Running: running(true, "deny", policy("allow")), Intentions: Known([]consul.Intention{
			{Source: "*", Destination: "*", ByRequest: true},
		})}, `intention-default fail
  the agent runs with default_intention_policy = "allow"
  remedy: write the allow intentions that are needed, then set default_intention_policy = "deny" or acl { default_policy = "deny" }
intention-wildcards info
  an intention from * to * decides by request`},
		"all": {Input{Running: running(true, "deny", policy("deny")), Intentions: Known([]consul.Intention{allow("*", "db"), allow("*", "*"), allow("web", "*")})}, `intention-default pass
  the agent runs with default_intention_policy = "deny"
intention-wildcards fail
  an intention from * to * allows
  an intention from * to db allows
  an intention from web to * allows
  remedy: write an intention for each pair that talks, then delete the wildcard`},
		"wide": {Input{Running: running(true, "deny", policy("deny")), Intentions: Known([]consul.Intention{allow("*", "db")})}, `intention-default pass
  the agent runs with default_intention_policy = "deny"
intention-wildcards warn
  an intention from * to db allows
  remedy: write an intention for each pair that talks, then delete the wildcard`},
		"nothing seen": {Input{Running: Unseen[consul.Running]("denied", `agent "n" read`), Intentions: unseen}, `intention-default unknown
  default_intention_policy: denied
  needs: agent "n" read
intention-wildcards unknown
  intentions: the token may not read all
  needs: service_prefix "" { intentions = "read" }`},
	} {
		got := text(Evaluate(test.in), catalog.IntentionDefault, catalog.IntentionWildcards)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestRowsAreBounded: thousands of services, intentions and findings make no longer rows.
func TestRowsAreBounded(t *testing.T) {
	h := soundHost()
	var intentions []consul.Intention
	for i := range 5000 {
		name := fmt.Sprintf("s%04d\x1b[2J", i)
		h.Services = append(h.Services, Service{Name: name, Listeners: []string{"127.0.0.1:8080"}, Upstreams: []string{"db"}})
		h.Findings = append(h.Findings, Finding{ID: catalog.ExposedListener, State: "open", Message: name, Remedy: name})
		intentions = append(intentions, consul.Intention{Source: "*", Destination: name, Allow: true})
	}
	for _, row := range Evaluate(Input{Host: Known(h), Intentions: Known(intentions)}).Rows {
		if text := strings.Join(row.Found, ""); len(row.Found) > mostFound+1 || strings.ContainsRune(text+row.Remedy, 0x1b) || len(text) > 20000 {
			t.Errorf("%s has %d sentences of %d bytes", row.ID, len(row.Found), len(text))
		}
	}
}
