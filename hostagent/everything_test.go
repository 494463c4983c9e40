// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// everybody knows the owner of every socket, and how often he was asked.
type everybody struct {
	asked int
	of    []sockets.Listener
}

func (e *everybody) Lookup(_ context.Context, listeners []sockets.Listener) (sockets.Result, error) {
	e.asked++
	e.of = listeners
	found := sockets.Result{ByCookie: map[uint64]sockets.Owner{}}
	for _, l := range listeners {
		found.ByCookie[l.Cookie] = sockets.Owner{User: fmt.Sprint("user of ", l.Addr.Port())}
	}
	return found, nil
}

func listing(listeners []Reachable) string {
	var b strings.Builder
	for _, r := range listeners {
		owner := ""
		if r.Owner != nil {
			owner = " " + r.Owner.User
		}
		fmt.Fprintf(&b, "%d %s%s guarded %t\n", r.Listener.Namespace, address(&r.Listener), owner, r.Guarded)
	}
	return b.String()
}

func TestLookListsEverything(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 127.0.0.1:8080", "tcp 0.0.0.0:8080", "tcp [::]:21000", "udp 0.0.0.0:53")
	h.rules, h.exists = firewall.Ruleset{Guard: firewall.Ports(8080)}, true
	parts := h.parts(ModeGuard)
	owners := &everybody{}
	parts.Owners = owners

	scan, err := Look(t.Context(), parts)
	if err != nil || scan.Listeners != nil || len(owners.of) == 4 {
		t.Errorf("unasked it lists %v and looks up %d owners, %v", scan.Listeners, len(owners.of), err)
	}
	parts.All = true
	owners.asked = 0
	scan, err = Look(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "all listeners", `0 tcp 127.0.0.1:8080 user of 8080 guarded false
0 tcp 0.0.0.0:8080 user of 8080 guarded true
0 tcp [::]:21000 user of 21000 guarded false
0 udp 0.0.0.0:53 user of 53 guarded false
`, listing(scan.Listeners))
	if owners.asked != 1 {
		t.Errorf("owners were looked up %d times", owners.asked)
	}
	if f := scan.Findings[0]; f.Owner == nil || f.Owner.User != "user of 8080" {
		t.Errorf("the finding has owner %+v", f.Owner)
	}

	h.fails = &consul.Error{Kind: consul.KindUnreachable}
	parts.Elsewhere = func(context.Context) (sockets.Spaces, error) {
		away := listener("tcp 0.0.0.0:80")
		away.Namespace = 7
		return sockets.Spaces{Listeners: []sockets.Listener{away}}, nil
	}
	if scan, err = Look(t.Context(), parts); err != nil {
		t.Fatal(err)
	}
	want(t, "who can be reached", `0 tcp 0.0.0.0:8080 user of 8080 guarded true
0 tcp [::]:21000 user of 21000 guarded false
0 udp 0.0.0.0:53 user of 53 guarded false
`, listing(scan.Network))
	if owners.asked != 2 {
		t.Errorf("owners were looked up %d times", owners.asked)
	}
}

// TestDevicesAreNamed: wherever JSON shows a socket, it names the interface that it is bound to; an index of another network
// namespace is another interface.
func TestDevicesAreNamed(t *testing.T) {
	in := base()
	in.Host = &Host{}
	in.Host.Interfaces = []facts.Interface{{Index: 3, Name: "eth0"}}
	in.Listeners = listeners("tcp 0.0.0.0:8080 dev=3", "tcp [::]:21000")
	away := listener("tcp 0.0.0.0:9090 dev=3")
	away.Namespace = 7
	in.Elsewhere = []sockets.Listener{away}
	scan := &Scan{}
	scan.evaluate(t.Context(), Parts{All: true, Owners: &everybody{}}, &in)
	scan.Network = scan.withOwners(in.Listeners[:1], nil)
	d := scan.Document("1.0.0")
	for where, got := range map[string]string{
		"finding": d.Findings[0].Listener.Device, "service": d.Services[0].Listeners[0].Device,
		"network": d.Network[0].Listener.Device, "listeners": d.Listeners[0].Listener.Device,
	} {
		if got != "eth0" {
			t.Errorf("%s: the interface is %q", where, got)
		}
	}
	if l := d.Listeners[2].Listener; l.Namespace != 7 || l.Device != "" {
		t.Errorf("elsewhere: %+v", l)
	}
}

func TestListenersElsewhere(t *testing.T) {
	in := base()
	elsewhere := listeners("tcp 0.0.0.0:81", "tcp 0.0.0.0:21000", "tcp 0.0.0.0:80", "tcp 0.0.0.0:82")
	for i, namespace := range []uint64{7, 7, 8, 8} {
		elsewhere[i].Namespace = namespace
		elsewhere[i].Cookie += 1000
	}
	elsewhere[3].Cookie, elsewhere[3].Partial = 1<<63|1, true // as one that was read from /proc
	in.Elsewhere, in.Namespaces = elsewhere, []sockets.Namespace{{ID: 7, Name: "blue"}}
	in.Enforced = firewall.Ports(81)
	scan := &Scan{standing: standing{enforced: in.Enforced}}
	owners := &everybody{}
	scan.evaluate(t.Context(), Parts{All: true, Owners: owners}, &in)
	want(t, "all listeners", `0 tcp 127.0.0.1:8080 user of 8080 guarded false
0 tcp [::]:21000 user of 21000 guarded false
7 tcp 0.0.0.0:81 user of 81 guarded false
7 tcp 0.0.0.0:21000 user of 21000 guarded false
8 tcp 0.0.0.0:80 user of 80 guarded false
8 tcp 0.0.0.0:82 user of 82 guarded false
`, listing(scan.Listeners))
	if len(scan.Namespaces) != 1 || in.Elsewhere[0].Namespace != 7 {
		t.Errorf("the namespaces are %v, and the input now begins with %v", scan.Namespaces, in.Elsewhere[0])
	}
	for _, l := range owners.of {
		if l.Cookie == 0 {
			t.Errorf("the owner of %v was asked for by no cookie", l)
		}
	}
}

func TestRangeUse(t *testing.T) {
	scan := &Scan{listeners: listeners(
		"tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000", "tcp 0.0.0.0:21001", "udp 0.0.0.0:21001", "tcp 127.0.0.1:21003", "tcp 0.0.0.0:21004", "tcp 0.0.0.0:21005")}
	scan.Range = DefaultSidecarRange()
	scan.published = []firewall.Published{{First: 21006, Last: 21007, To: "172.17.0.2:80"}}
	scan.Openings = []Opening{
		{Port: 443, Services: []string{"edge"}}, {Port: 21000, Services: []string{"web"}}, {Port: 21001, Services: []string{"api", "db"}},
		{Port: 21002, Services: []string{"cache"}}, {Port: 21255, IDs: []string{"old"}, Held: true},
	}
	nc := &sockets.Owner{Processes: []sockets.Process{{Name: "nc"}}}
	scan.Findings = []Finding{
		{ID: catalog.DuplicatePort, Port: 21001}, {ID: catalog.SidecarNotListening, Port: 21002}, {ID: catalog.SidecarNotListening, Port: 21001},
		{ID: catalog.SquattedPort, Port: 21004, Owner: nc}, {ID: catalog.SquattedPort, Port: 21004}, {ID: catalog.RangeShared, Port: 21006},
		{ID: catalog.ExposedListener, Port: 21005}, {ID: catalog.SquattedPort, Port: 9}, {ID: catalog.RangeShared},
	}
	var b strings.Builder
	for _, u := range scan.RangeUse() {
		fmt.Fprintln(&b, u.Port, u.Use, u.For)
	}
	want(t, "the uses", `21000 sidecar web
21001 shared api, db
21002 unserved cache
21003 local 
21004 squatted nc
21005 local 
21006 shared 172.17.0.2:80
21255 held old
`, b.String())
	scan.Range = PortRange{}
	if uses := scan.RangeUse(); len(uses) > 0 {
		t.Errorf("of no range %v are used", uses)
	}
}
