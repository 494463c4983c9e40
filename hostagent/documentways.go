// SPDX-License-Identifier: MPL-2.0

package hostagent

// DocumentWay is an address of the host at which the network reaches a listener. Interface is "" where it is not known.
type DocumentWay struct {
	Address   string `json:"address"`
	Interface string `json:"interface"`
}

func documentWays(ways []Way) []DocumentWay {
	out := make([]DocumentWay, len(ways))
	for i, w := range ways {
		out[i] = DocumentWay{Address: w.Addr.String(), Interface: w.Interface}
	}
	return out
}

// devices names the interfaces that sockets are bound to, by index.
func (e *evaluation) devices() map[uint32]string {
	var names map[uint32]string
	if e.in.Host == nil {
		return nil
	}
	for i := range e.in.Listeners {
		if e.in.Listeners[i].Device == 0 {
			continue
		}
		names = make(map[uint32]string, len(e.in.Host.Interfaces))
		for _, i := range e.in.Host.Interfaces {
			names[i.Index] = i.Name
		}
		return names
	}
	return names
}

// nameDevice fills in the name of the interface that a listener is bound to; l may be nil. In another network namespace an
// index means another interface.
func nameDevice(names map[uint32]string, l *DocumentListener) {
	if l != nil && l.Namespace == 0 {
		l.Device = names[l.DeviceIndex]
	}
}

func nameDevices(names map[uint32]string, findings []DocumentFinding) {
	for i := range findings {
		nameDevice(names, findings[i].Listener)
	}
}

func (d *Document) nameDevices(names map[uint32]string) {
	nameDevices(names, d.Findings)
	for _, sockets := range [][]DocumentSocket{d.Network, d.Listeners} {
		for i := range sockets {
			nameDevice(names, &sockets[i].Listener)
		}
	}
	for i := range d.Services {
		for j := range d.Services[i].Listeners {
			nameDevice(names, &d.Services[i].Listeners[j])
		}
	}
}
