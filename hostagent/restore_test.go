// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
)

func TestRestoredRules(t *testing.T) {
	quarantine := &Quarantine{Ports: firewall.Ports(8080)}
	for name, c := range map[string]struct {
		saved  func(*Saved)
		policy func(*Policy)
		want   string
	}{
		"as it was": {want: "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16"},
		"everybody, then as now": {
			saved:  func(s *Saved) { s.Limited, s.Sources, s.AllowFrom = false, nil, nil },
			policy: func(p *Policy) { p.AllowFrom, p.AllowCluster = nil, false },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from",
		},
		"limited since": {
			saved: func(s *Saved) { s.Limited, s.Sources, s.AllowFrom = false, nil, nil },
			want:  "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8",
		},
		"limited to the cluster since: nobody is known": {
			saved:  func(s *Saved) { s.Limited, s.Sources, s.AllowFrom = false, nil, nil },
			policy: func(p *Policy) { p.AllowFrom = nil },
			want:   "guard 21000-21255 open none cut none false from nobody",
		},
		"limit lifted since: not before Consul is up": {
			policy: func(p *Policy) { p.AllowFrom, p.AllowCluster = nil, false },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"narrowed since": {
			policy: func(p *Policy) { p.AllowFrom = prefixes("10.1.0.0/16 192.168.0.0/16") },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from 10.1.0.0/16 172.17.0.0/16",
		},
		"widened since": {
			policy: func(p *Policy) { p.AllowFrom = prefixes("0.0.0.0/0") },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"cluster taken back": {
			policy: func(p *Policy) { p.AllowCluster = false },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8",
		},
		"bridges taken back": {
			policy: func(p *Policy) { p.AllowBridges = false },
			want:   "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8",
		},
		"other networks since": {
			policy: func(p *Policy) { p.AllowFrom, p.AllowCluster = prefixes("192.168.0.0/16"), false },
			want:   "guard 21000-21255 open none cut none false from nobody",
		},
		"another range since": {
			policy: func(p *Policy) { p.SidecarRange = &PortRange{21002, 21010} },
			want:   "guard 21002-21010 open 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"protected since": {
			policy: func(p *Policy) { p.Protected.Add(21003) },
			want:   "guard 21000-21002, 21004-21255 open 21000 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"extra and guard ports taken back": {
			saved: func(s *Saved) { s.Open.Add(443); s.Guard.Add(9000) },
			want:  "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"extra and guard ports": {
			saved:  func(s *Saved) { s.Open.Add(443); s.Guard.Add(9000) },
			policy: func(p *Policy) { p.ExtraPorts, p.GuardPorts = firewall.Ports(443, 444), firewall.Ports(9000, 9001) },
			want:   "guard 9000, 21000-21255 open 443, 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"quarantine taken back": {
			saved: func(s *Saved) { s.Guard.Add(8080) },
			want:  "guard 21000-21255 open 21000, 21003 cut none false from 10.0.0.0/8 172.17.0.0/16",
		},
		"quarantine": {
			saved:  func(s *Saved) { s.Guard.Add(8080); s.Guard.Add(8081); s.Cut.Add(8081) },
			policy: func(p *Policy) { p.Quarantine = quarantine },
			want:   "guard 8080, 21000-21255 open 21000, 21003 cut 8080 true from 10.0.0.0/8 172.17.0.0/16",
		},
		"cut on close": {
			saved:  func(s *Saved) { s.Cut.Add(21009); s.Cut.Add(21003) },
			policy: func(p *Policy) { p.CutOnClose = true },
			want:   "guard 21000-21255 open 21000, 21003 cut 21009 true from 10.0.0.0/8 172.17.0.0/16",
		},
	} {
		s, policy := sampleState(), base().Policy
		policy.AllowFrom, policy.AllowCluster, policy.AllowBridges = prefixes("10.0.0.0/8"), true, true
		if c.saved != nil {
			c.saved(s)
		}
		if c.policy != nil {
			c.policy(&policy)
		}
		rules, nobody := s.rules(Input{Policy: policy})
		got := fmt.Sprintf("guard %s open %s cut %s %v from", rules.Guard, rules.Open, rules.Cut, rules.CutRules)
		for _, p := range rules.AllowFrom {
			got += " " + p.String()
		}
		if nobody {
			got += " nobody"
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}
