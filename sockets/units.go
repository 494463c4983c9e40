// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// managerTimeout bounds the talk with systemd about its sockets.
const managerTimeout = time.Second

// socketUnit is an address on which systemd listens for a service.
type socketUnit struct {
	name     string
	protocol Protocol
	addr     netip.AddrPort
}

// nameSocketUnits sets the unit of listeners that nobody but the system's systemd holds to the *.socket unit that it listens
// for. It is not asked unless there is such a listener; what it does not tell stays as it is. A user's systemd is never
// asked: it is a program of that user, who could have it answer whatever and as much as they like.
func (d *describer) nameSocketUnits(ctx context.Context, listeners []Listener, entries map[uint64]entry) {
	var units []socketUnit
	asked := false
	for _, l := range listeners {
		e := entries[l.Cookie]
		if !d.onlyManager(e.holders) {
			continue
		}
		if !asked {
			units, asked = socketUnits(ctx), true
		}
		if name := unitOf(units, l); name != "" {
			e.owner.Unit = name
			entries[l.Cookie] = e
		}
	}
}

// onlyManager tells whether all holders are the system's systemd: PID 1 and what it has just started.
func (d *describer) onlyManager(holders []holder) bool {
	return len(holders) > 0 && !slices.ContainsFunc(holders, func(h holder) bool { return !d.processes[h.pid].manager })
}

// unitOf returns the unit that listens on the address of l, "" if there is none or more than one: units on different
// devices may share an address.
func unitOf(units []socketUnit, l Listener) string {
	var name string
	for _, u := range units {
		if u.protocol != l.Protocol || u.addr != l.Addr || u.name == name {
			continue
		}
		if name != "" {
			return ""
		}
		name = u.name
	}
	return name
}

// socketUnits asks systemd on which addresses its socket units listen, and returns what it told until it failed.
func socketUnits(ctx context.Context) []socketUnit {
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	conn, err := connectManager(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close()
	units, err := conn.ListUnitsByPatternsContext(ctx, []string{"active"}, []string{"*.socket"})
	if err != nil {
		return nil
	}
	var found []socketUnit
	for _, u := range units {
		if !isUnit(u.Name, ".socket") {
			continue
		}
		listen, err := conn.GetUnitTypePropertyContext(ctx, u.Name, "Socket", "Listen")
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			found = append(found, parseListen(u.Name, listen.Value.Value())...)
		}
	}
	return found
}

// connectManager opens a connection to systemd: as root to its own socket, which needs no bus.
func connectManager(ctx context.Context) (*dbus.Conn, error) {
	if os.Geteuid() == 0 {
		if conn, err := dbus.NewSystemdConnectionContext(ctx); err == nil {
			return conn, nil
		}
	}
	return dbus.NewSystemConnectionContext(ctx)
}

// parseListen reads the property Listen of a socket unit, pairs of a kind and an address as systemd writes it:
// "[fe80::1]:80%eth0". Only TCP and UDP are of interest.
func parseListen(name string, value any) []socketUnit {
	pairs, ok := value.([][]any)
	if !ok {
		return nil
	}
	var found []socketUnit
	for _, pair := range pairs {
		if len(pair) != 2 {
			continue
		}
		kind, _ := pair[0].(string)
		address, _ := pair[1].(string)
		unit := socketUnit{name: name}
		switch kind {
		case "Stream":
			unit.protocol = TCP
		case "Datagram":
			unit.protocol = UDP
		default:
			continue
		}
		address, _, _ = strings.Cut(address, "%") // Listener has no zone either
		var err error
		if unit.addr, err = netip.ParseAddrPort(address); err == nil {
			found = append(found, unit)
		}
	}
	return found
}
