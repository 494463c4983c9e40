// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortSetString(t *testing.T) {
	tests := []struct {
		name  string
		ports []uint16
		want  string
	}{
		{"empty", nil, "none"},
		{"one", []uint16{21000}, "21000"},
		{"ends", []uint16{0, 65535}, "0, 65535"},
		{"run", []uint16{21002, 21000, 21001}, "21000-21002"},
		{"run over words", []uint16{63, 64, 65, 127, 128}, "63-65, 127-128"},
		{"runs and single ones", []uint16{1, 2, 4, 6, 7, 8}, "1-2, 4, 6-8"},
		{"last run ends at 65535", []uint16{65534, 65535}, "65534-65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Ports(tt.ports...).String()); diff != "" {
				t.Errorf("String (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPortSetAddRange(t *testing.T) {
	var whole, inverted PortSet
	whole.AddRange(0, 65535)
	if got := whole.Len(); got != 65536 {
		t.Errorf("the range of all ports has %d ports", got)
	}
	if got := whole.String(); got != "0-65535" {
		t.Errorf("the range of all ports reads %q", got)
	}
	inverted.AddRange(10, 9)
	if inverted != (PortSet{}) {
		t.Errorf("an inverted range added %v", inverted)
	}
}

// TestPortSetAgainstMap compares every operation with the same one on a map.
func TestPortSetAgainstMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (PortSet, map[uint16]bool) {
		s, m := PortSet{}, map[uint16]bool{}
		for range 300 {
			p := uint16(random.IntN(1024))
			s.Add(p)
			m[p] = true
		}
		for range 50 {
			p := uint16(random.IntN(1024))
			s.Remove(p)
			delete(m, p)
		}
		return s, m
	}
	for range 20 {
		a, inA := draw()
		b, inB := draw()
		var union, minus, both []uint16
		for p := range uint16(2048) {
			if inA[p] || inB[p] {
				union = append(union, p)
			}
			if inA[p] && !inB[p] {
				minus = append(minus, p)
			}
			if inA[p] && inB[p] {
				both = append(both, p)
			}
			if a.Has(p) != inA[p] {
				t.Fatalf("Has(%d) is %v", p, a.Has(p))
			}
		}
		for name, pair := range map[string]struct {
			want []uint16
			got  PortSet
		}{"Union": {union, a.Union(b)}, "Minus": {minus, a.Minus(b)}, "Intersect": {both, a.Intersect(b)}} {
			if diff := cmp.Diff(pair.want, slices.Collect(pair.got.All())); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", name, diff)
			}
			if pair.got.Len() != len(pair.want) || pair.got != Ports(pair.want...) {
				t.Fatalf("%s has length %d and is not equal to a set of the same ports", name, pair.got.Len())
			}
		}
	}
}

func TestPortSetAllEndsEarly(t *testing.T) {
	s := Ports(1, 2, 5, 6, 9)
	for range s.All() {
		break
	}
	var runs [][2]uint16
	for first, last := range s.ranges() {
		if runs = append(runs, [2]uint16{first, last}); len(runs) == 2 {
			break
		}
	}
	if diff := cmp.Diff([][2]uint16{{1, 2}, {5, 6}}, runs); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
}
