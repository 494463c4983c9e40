// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// finding is what of a finding the tests look at.
type finding struct{ ID, State, Message, Remedy string }

// scan returns the findings of `hostagent scan` that have the id.
func (b *box) scan(id string) (found []finding) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	out, _ := b.command(ctx, "hostagent scan --format json 2>/dev/null").Output() // findings make its exit status
	var document struct{ Findings []finding }
	if err := json.Unmarshal(out, &document); err != nil {
		b.t.Fatalf("hostagent scan says %q: %v", out, err)
	}
	for _, f := range document.Findings {
		if f.ID == id {
			found = append(found, f)
		}
	}
	return found
}

// blocked wants a scan to find that the sidecar's port is blocked, by a chain whose name holds text, and the running
// hostagent to say so too.
func (b *box) blocked(text string) {
	b.t.Helper()
	const patience = 10 * time.Second
	err := b.waitUntil("scan finds opening-blocked", patience, func() error {
		found := b.scan("opening-blocked")
		for _, f := range found {
			if strings.Contains(f.Message, "21000") && strings.Contains(f.Message, text) && f.Remedy != "" {
				return nil
			}
		}
		return fmt.Errorf("it finds %+v", found)
	})
	err = errors.Join(err, b.waitUntil("status says opening-blocked", patience, func() error {
		if out, _ := b.try("hostagent status"); !strings.Contains(out, "opening-blocked") {
			return errors.New("it does not")
		}
		return nil
	}))
	if err != nil {
		b.t.Error(err)
	}
}

// firewalld starts the bus and firewalld, and puts the host's interface into zone public.
func (b *box) firewalld() *host.Process {
	b.t.Helper()
	b.sh("mkdir -p /run/dbus")
	b.daemon("dbus", "dbus-daemon --system --nofork --nopidfile")
	return b.startFirewalld()
}

func (b *box) startFirewalld() *host.Process {
	b.t.Helper()
	process := b.daemon("firewalld", "firewalld --nofork --nopid")
	b.until("firewalld runs", func() error {
		if out, code := b.try("firewall-cmd --state"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
	b.sh("firewall-cmd --zone=public --change-interface=eth0")
	return process
}

// TestFirewalld: no accept of ours stands against what firewalld drops, so hostagent says that the port is blocked; once
// firewalld lets the range in, the guard decides, whatever firewalld does meanwhile.
func TestFirewalld(t *testing.T) {
	for _, test := range []struct{ name, config string }{{"iptables", ""}, {"nftables", nativeBackend}} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			b.mesh()
			process := b.firewalld()
			b.guard(test.config)
			b.blocks(sidecar)
			b.reaches(squatted, host.Dropped) // ours comes first, and says nothing
			b.blocks(plain)
			b.blocked("firewalld")

			b.sh("firewall-cmd --permanent --zone=public --change-interface=eth0",
				"firewall-cmd --permanent --add-port=21000-21255/tcp", "firewall-cmd --add-port=21000-21255/tcp")
			b.eventually(sidecar, host.Open)
			b.meshWorks()
			b.reaches(squatted, host.Dropped)
			if found := b.scan("opening-blocked"); len(found) > 0 {
				t.Errorf("firewalld lets the range in, and yet scan finds %+v", found)
			}

			b.through("firewall-cmd --reload", "firewall-cmd --reload")
			b.through("firewall-cmd --complete-reload", "firewall-cmd --complete-reload")
			b.during("the end of firewalld", func() { b.must(process.Stop()) })
			b.during("the start of firewalld", func() { b.startFirewalld() })
			b.blocks(plain)
			b.meshWorks()
		})
	}
}
