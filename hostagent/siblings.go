// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// judgeSibling finds a listener to be an application's, beside the port that it is registered on. In the sidecar range it
// is squatted-port's, which says more.
func (a *around) judgeSibling(l *sockets.Listener, owner *sockets.Owner) {
	app, unit := a.kin.relative(l, owner)
	if app == nil || a.res.Range.Contains(l.Addr.Port()) {
		return
	}
	if n, named := a.names[l.Addr.Port()]; named && (n.several || n.id != app.reg.ID) {
		return // another service's own
	}
	service := &a.res.Services[app.at]
	service.Listeners = append(service.Listeners, *l)
	a.tell(catalog.ExposedSibling, app, l, "unit", unit, "fix", bindRemedy(l, a.owner(l)))
	a.expose(catalog.ExposedSibling, app.reg, app.proxies, l)
}

// relative tells which application an owner is a part of, nil for none, and by what: the same process, or else the service
// unit or the container that the application has to itself.
//
// A container holds what its image is for. A unit may be a supervisor that nobody knows here, so a process of another user
// and another program is none of the application's.
func (k *kin) relative(l *sockets.Listener, owner *sockets.Owner) (app *application, unit string) {
	for _, p := range owner.Processes {
		if app := k.runs[p.PID]; app != nil {
			return app, "process " + cmp.Or(catalog.CleanTo(p.FullName(), 40), fmt.Sprint("of user ", catalog.CleanTo(owner.User, 40)))
		}
	}
	at, ok := homeOf(l, owner)
	if !ok {
		return nil, ""
	}
	h := k.homes[at]
	switch {
	case h == nil || h.shared:
		return nil, ""
	case at.container:
		return h.app, containerText(at.name, owner.Runtime)
	case h.uids[l.UID] || slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool { return p.Exe != "" && h.exes[executable(p)] }):
		return h.app, "unit " + at.name
	}
	return nil, ""
}
