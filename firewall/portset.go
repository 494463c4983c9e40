// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// PortSet is a set of TCP ports, one bit a port. The zero value is empty and ready to use; it is a value: assignment
// copies it, == compares it. Port 0 can be held but never reaches a kernel set: no TCP segment carries it.
type PortSet [1024]uint64

// Ports returns the set of the given ports.
func Ports(ports ...uint16) PortSet {
	var s PortSet
	for _, p := range ports {
		s.Add(p)
	}
	return s
}

// Add puts port into s.
func (s *PortSet) Add(port uint16) { s[port>>6] |= 1 << (port & 63) }

// AddRange puts first to last, both included, into s. An inverted range adds nothing.
func (s *PortSet) AddRange(first, last uint16) {
	for p := uint32(first); p <= uint32(last); p++ {
		s.Add(uint16(p))
	}
}

// Remove takes port out of s.
func (s *PortSet) Remove(port uint16) { s[port>>6] &^= 1 << (port & 63) }

// Has tells whether port is in s.
func (s *PortSet) Has(port uint16) bool { return s[port>>6]&(1<<(port&63)) != 0 }

// Len returns the number of ports in s.
func (s *PortSet) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Union returns the ports that are in s or in t.
func (s PortSet) Union(t PortSet) PortSet {
	for i := range s {
		s[i] |= t[i]
	}
	return s
}

// Minus returns the ports of s that are not in t.
func (s PortSet) Minus(t PortSet) PortSet {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

// Intersect returns the ports that are in s and in t.
func (s PortSet) Intersect(t PortSet) PortSet {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

// All yields the ports of s in ascending order.
func (s *PortSet) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(uint16(i<<6 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// ranges yields the runs of neighbouring ports of s, in ascending order, each by its first and its last port.
func (s *PortSet) ranges() iter.Seq2[uint16, uint16] {
	return func(yield func(first, last uint16) bool) {
		first, last := -1, -1
		for p := range s.All() {
			switch {
			case first < 0:
				first = int(p)
			case int(p) != last+1:
				if !yield(uint16(first), uint16(last)) {
					return
				}
				first = int(p)
			}
			last = int(p)
		}
		if first >= 0 {
			yield(uint16(first), uint16(last))
		}
	}
}

// String writes s as ascending ports and ranges, "21000-21002, 21010", or "none".
func (s PortSet) String() string {
	var parts []string
	for first, last := range s.ranges() {
		parts = append(parts, rangeText(first, last))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func rangeText(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(last))
}
