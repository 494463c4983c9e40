// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// bindRemedy is the phrase that makes whoever holds l listen on loopback only: the setting to write where the program is a
// well-known one. owner may be nil.
func bindRemedy(l *sockets.Listener, owner *sockets.Owner) string {
	loopback := loopback(l)
	port := l.Addr.Port()
	template := "bind {process} to {loopback}, port {port}"
	if server, ok := serverOf(owner, port); ok {
		template = server.Remedy(owner.Container != "")
	}
	return catalog.Render(template, "process", cmp.Or(processNames(owner), "the application"), "loopback", loopback.String(),
		"port", strconv.Itoa(int(port)), "address", netip.AddrPortFrom(loopback, port).String())
}

// serverOf is the well-known server that holds a port. Where systemd holds the socket too, its unit says where that is.
func serverOf(owner *sockets.Owner, port uint16) (server catalog.Server, ok bool) {
	if owner == nil {
		return server, false
	}
	for _, p := range owner.Processes {
		if s, known := catalog.FindServer(p.Exe, p.Name, owner.Unit, port); known && (!ok || server.Interpreter && !s.Interpreter) {
			server, ok = s, true
		}
	}
	return server, ok
}
