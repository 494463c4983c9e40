// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// remedies lists the findings of a result with what mends them.
func remedies(r Result) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s: %s\n  %s\n", f.ID, f.State, f.Message, f.Remedy)
	}
	return b.String()
}

func TestHostFindings(t *testing.T) {
	for _, test := range []struct {
		name  string
		host  Host
		setup func(*Input)
		want  string
	}{
		{
			name: "the kernel's defaults and a Nomad elsewhere",
			host: Host{Facts: facts.Facts{EphemeralFirst: 32768, EphemeralLast: 60999, Nomad: &facts.Nomad{First: 25000, Last: 32000}}},
		},
		{
			name: "ephemeral ports in the range, others reserved already",
			host: Host{Facts: facts.Facts{
				EphemeralFirst: 15000, EphemeralLast: 61000, Reserved: []facts.PortSpan{{First: 8080, Last: 8080}, {First: 21000, Last: 21099}},
			}},
			want: `range-ephemeral-overlap open: the kernel may take 21100-21255 of the sidecar range as source ports of outgoing connections (net.ipv4.ip_local_port_range is 15000 61000)
  sysctl -w net.ipv4.ip_local_reserved_ports=8080,21000-21255 ; and for the next boot the line net.ipv4.ip_local_reserved_ports=8080,21000-21255 in a file of /etc/sysctl.d
`,
		},
		{
			name: "ephemeral ports in the range, all of it reserved",
			host: Host{Facts: facts.Facts{EphemeralFirst: 15000, EphemeralLast: 61000, Reserved: []facts.PortSpan{{First: 21000, Last: 21255}}}},
		},
		{
			name: "no range, so nothing to share",
			host: Host{Facts: facts.Facts{EphemeralFirst: 15000, EphemeralLast: 61000, Nomad: &facts.Nomad{First: 20000, Last: 32000}}},
			setup: func(in *Input) {
				in.Registrations, in.Agent.SidecarMin, in.Agent.SidecarMax = nil, -1, -1
			},
		},
		{
			name: "Nomad's defaults",
			host: Host{Facts: facts.Facts{Nomad: &facts.Nomad{First: 20000, Last: 32000, Reserved: []facts.PortSpan{{First: 22, Last: 22}}, Source: "/etc/nomad.d/client.hcl"}}},
			want: `range-shared open: Nomad (/etc/nomad.d/client.hcl) hands out ports of the sidecar range: 21000-21255
  in Nomad's client block set reserved { reserved_ports = "22,21000-21255" }, or move min_dynamic_port and max_dynamic_port away
`,
		},
		{
			name: "a Nomad that leaves the range alone",
			host: Host{Facts: facts.Facts{Nomad: &facts.Nomad{First: 20000, Last: 32000, Reserved: []facts.PortSpan{{First: 21000, Last: 21255}}}}},
		},
		{
			name: "a published container, with the runtime's own socket beside the rule",
			host: Host{Published: []firewall.Published{
				{First: 8080, Last: 8080, To: "172.17.0.2:80"}, {First: 21010, Last: 21010, To: "172.17.0.2:80"},
				{First: 21010, Last: 21010, To: "172.17.0.9:80"}, {First: 21254, Last: 30000, To: "172.17.0.3"},
			}},
			setup: func(in *Input) {
				in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21010 uid=0"), listener("tcp 0.0.0.0:21254 uid=7"))
				in.Enforced = firewall.Ports(21255)
			},
			want: `range-shared open: a published container port or another nat rule hands out ports of the sidecar range: 21010 goes to 172.17.0.2:80
  publish the container on a port outside 21000-21255
range-shared open: a published container port or another nat rule hands out ports of the sidecar range: 21254 goes to 172.17.0.3
  publish the container on a port outside 21000-21255
range-shared mitigated: a published container port or another nat rule hands out ports of the sidecar range: 21255 goes to 172.17.0.3
  publish the container on a port outside 21000-21255
squatted-port open: tcp 0.0.0.0:21254 is in the sidecar range and no registered sidecar explains it
  stop its process or move it out of 21000-21255: Consul hands these ports out without looking whether they are free
`,
		},
		{
			name: "route_localnet on a VLAN, and on something with a name made for a shell",
			host: Host{Facts: facts.Facts{RouteLocalnet: []string{"eth0.100", "x$(id)"}}},
			want: `route-localnet open: the kernel takes packets for 127.0.0.0/8 from eth0.100 and x$(id): neighbours there can reach what listens on loopback only
  sysctl -w net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.eth0/100.route_localnet=0 'net.ipv4.conf.x$(id).route_localnet'=0, unless what set it needs it; then drop packets for 127.0.0.0/8 that do not come from lo
`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			if test.setup != nil {
				test.setup(&in)
			}
			in.Host = &test.host
			if diff := cmp.Diff(test.want, remedies(Evaluate(in))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRangeNearlyFull(t *testing.T) {
	for count, want := range map[int]string{
		7: "",
		8: "8 of the 10 ports of the sidecar range 21000-21009 are registered",
	} {
		in := base()
		in.Policy.SidecarRange = &PortRange{First: 21000, Last: 21009}
		in.Registrations, in.Listeners = nil, nil
		for i := range count {
			port := 21000 + i
			in.Registrations = append(in.Registrations, app(fmt.Sprintf("a%d", i), port)) // of any kind: Consul counts them all
			in.Listeners = append(in.Listeners, listener(fmt.Sprintf("tcp 127.0.0.1:%d", port)))
		}
		in.Registrations = append(in.Registrations, app("twice", 21000), app("outside", 21010), app("odd", -7))
		got := ""
		for _, f := range Evaluate(in).Findings {
			if f.ID == "range-nearly-full" {
				got = f.Message
			}
		}
		if got != want {
			t.Errorf("with %d registrations: %q, want %q", count, got, want)
		}
	}
}

// TestDefinitionsAreNoProof: what no agent has registered is no reason to miss a sidecar.
func TestDefinitionsAreNoProof(t *testing.T) {
	in := base()
	in.Source = SourceFiles
	for i := range in.Registrations {
		in.Registrations[i].Predicted = in.Registrations[i].Kind == consul.KindConnectProxy
	}
	in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp 0.0.0.0:21007")
	want := `squatted-port open: tcp 0.0.0.0:21007 is in the sidecar range and no sidecar would be registered on it
  stop its process or move it out of 21000-21255: Consul hands these ports out without looking whether they are free
`
	result := Evaluate(in)
	if diff := cmp.Diff(want, remedies(result)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !result.Openings[0].Predicted || !result.Services[0].Sidecars[0].Predicted {
		t.Errorf("not marked as predicted: %+v, %+v", result.Openings[0], result.Services[0].Sidecars[0])
	}
}

// TestUnknownRegistrationsProveNothing: until a first answer nobody is a squatter.
func TestUnknownRegistrationsProveNothing(t *testing.T) {
	in := base()
	in.Registrations, in.Source = nil, SourceNone
	in.Listeners = listeners("tcp 0.0.0.0:21007")
	in.Host = &Host{Facts: facts.Facts{RouteLocalnet: []string{"br0"}}}
	result := Evaluate(in)
	if len(result.Findings) != 1 || result.Findings[0].ID != "route-localnet" {
		t.Errorf("findings without registrations:\n%s", dump(result))
	}
}

func TestRefusedRangeNamesWhatIsProtected(t *testing.T) {
	in := base()
	in.Agent.Ports["http"], in.Agent.Ports["dns"] = 21000, 21002
	in.Policy.Protected = firewall.Ports(22, 21001)
	in.SSH = firewall.Ports(21003)
	in.Registrations, in.Listeners = nil, nil
	want := `range-refused open: the Consul agent's sidecar range 21000-21255 is not taken over: it holds protected ports: 21000 (Consul's http), 21001 (protected_ports), 21002 (Consul's dns), 21003 (sshd); 21000-21255 without them stays in force
  give sidecars a small range of their own: ports { sidecar_min_port, sidecar_max_port } in the agent's configuration, or sidecar_range in hostagent's; or move what is protected out of it
`
	result := Evaluate(in)
	if diff := cmp.Diff(want, remedies(result)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := result.Rules.Guard.String(); got != "21004-21255" {
		t.Errorf("guarded %s", got)
	}
}

// TestRemediesAreSafeToPaste: whoever registers a service chooses its id, and remedies are pasted by root.
func TestRemediesAreSafeToPaste(t *testing.T) {
	for text, want := range map[string]string{
		"web-1": "web-1", "": "''", "-help": "'-help'", "a b": "'a b'", "x;reboot": "'x;reboot'", "it's": `'it'\''s'`,
	} {
		if got := shellWord(text); got != want {
			t.Errorf("%q becomes %s, want %s", text, got, want)
		}
	}
	in := base()
	in.Registrations[1].Proxy.DestinationID, in.Listeners = "x$(reboot)", nil
	if got := remedies(Evaluate(in)); !strings.Contains(got, "-sidecar-for 'x$(reboot)';") {
		t.Errorf("the remedy is\n%s", got)
	}
}

// TestCommandsAreWhole: half of a command is none.
func TestCommandsAreWhole(t *testing.T) {
	in := base()
	in.Host = &Host{}
	in.Host.RouteLocalnet = []string{"br-0123456789ab", "br-0123456789ac", "br-0123456789ad", "br-0123456789ae", "br-0123456789af"}
	in.Drift = &Drift{What: []string{"set hostagent-open was flushed"}, By: []string{"iptables-nft-re", "ip6tables-nft-r", "nft"}}
	found := 0
	for _, f := range Evaluate(in).Findings {
		if f.ID != catalog.RouteLocalnet && f.ID != catalog.FirewallDrift {
			continue
		}
		found++
		if strings.Contains(f.Remedy, "…") {
			t.Errorf("%s: cut off: %s", f.ID, f.Remedy)
		}
	}
	if found != 2 {
		t.Errorf("%d findings", found)
	}
}
