// SPDX-License-Identifier: MPL-2.0

package firewall

// Guard returns the ports of the guard set, empty where there is no such set.
func (s State) Guard() PortSet { return s.ports(guardSet) }

// Open returns the ports of the open set, empty where there is no such set.
func (s State) Open() PortSet { return s.ports(openSet) }

func (s State) ports(name string) PortSet {
	for _, set := range s.Sets {
		if set.Name == name {
			return set.Ports
		}
	}
	return PortSet{}
}
