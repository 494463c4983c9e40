// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func mustDropped(t testing.TB, f *Firewall) Drops {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	drops, err := f.Dropped(ctx)
	if err != nil {
		t.Fatalf("Dropped: %v", err)
	}
	return drops
}

// TestDropped: SYNs that are dropped are counted, by family and reason, wherever they meet the drop. A SYN that is
// answered is not, and the first one of each attempt is the only one, because no attempt lasts a second.
func TestDropped(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client := newPeer(t, 1)
		client.do(func() { shell(t, "ip addr add 10.9.1.3/24 dev far1") })
		if diff := cmp.Diff(Drops{}, mustDropped(t, f)); diff != "" {
			t.Errorf("without rules (-want +got):\n%s", diff)
		}
		listen(t, 21000, 21050)
		want := sample()
		mustApply(t, f, want)
		shell(t, "iptables-"+tables(variant)+" -t nat -A PREROUTING -p tcp -d 10.9.1.1 --dport 9999 -j REDIRECT --to-ports 21055")
		client.do(func() {
			for _, address := range []string{"10.9.1.1", "fd09:1::1"} {
				if !blocked(address, 21050) || !reach(address, 21000, nil) {
					t.Errorf("%s: the rules do not work", address)
				}
			}
			if !blocked("10.9.1.1", 21051) || !blocked("10.9.1.1", 9999) { // in PREROUTING and in INPUT
				t.Error("a guarded port answers")
			}
		})
		counted := Drops{IPv4: DropCount{Guard: 3}, IPv6: DropCount{Guard: 1}}
		if diff := cmp.Diff(counted, mustDropped(t, f)); diff != "" {
			t.Errorf("drops (-want +got):\n%s", diff)
		}

		// Sets may change as they like, another hand's rules too, and a new hostagent may come.
		want.Open.Add(21100)
		mustApply(t, f, want)
		shell(t, "iptables-"+tables(variant)+" -t mangle -A INPUT -p udp -j ACCEPT")
		f = open(t, variant)
		if changes := mustApply(t, f, want); !changes.Empty() {
			t.Errorf("a new Firewall changed %v", changes)
		}
		if diff := cmp.Diff(counted, mustDropped(t, f)); diff != "" {
			t.Errorf("drops after changes of sets (-want +got):\n%s", diff)
		}

		// Other rules begin at 0.
		want = limited("10.9.1.2/32", "fd09:1::2/128")
		mustApply(t, f, want)
		if diff := cmp.Diff(Drops{}, mustDropped(t, f)); diff != "" {
			t.Errorf("drops of new rules (-want +got):\n%s", diff)
		}
		client.do(func() {
			if outcome("open", "10.9.1.2", "10.9.1.1", 21000) != "open" ||
				outcome("dropped", "10.9.1.3", "10.9.1.1", 21000) != "dropped" || !blocked("10.9.1.1", 21050) {
				t.Error("the limited rules do not work")
			}
		})
		if diff := cmp.Diff(Drops{IPv4: DropCount{Guard: 1, Source: 1}}, mustDropped(t, f)); diff != "" {
			t.Errorf("drops with limited sources (-want +got):\n%s", diff)
		}
	})
}

// TestDroppedWaitsForNobody: neither an Apply that goes on for long nor a holder of the xtables lock keeps the counters
// from being read.
func TestDroppedWaitsForNobody(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		mustDropped(t, f)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := f.Published(ctx); err != nil {
			t.Errorf("Published: %v", err)
		}
	})
}

func TestDroppedEndsWithItsContext(t *testing.T) {
	f := start(t, VariantNFT)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := f.Dropped(ctx)
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "cannot read what was dropped: ") {
		t.Errorf("error: %v", err)
	}
}

// TestDropsOfAListing: rules are told apart by their sets, whatever words iptables lists the rest in, and only drops count.
func TestDropsOfAListing(t *testing.T) {
	listing := `*mangle
:PREROUTING ACCEPT [9:9]
:HOSTAGENT-GUARD - [0:0]
:HOSTAGENT-PREROUTING - [0:0]
[70:1] -A PREROUTING -j HOSTAGENT-PREROUTING
[71:1] -A PREROUTING -m set --match-set hostagent-guard dst -j DROP
[1:60] -A HOSTAGENT-PREROUTING -p tcp -m set --match-set hostagent-cut dst -j DROP
[2:120] -A HOSTAGENT-PREROUTING -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -p tcp -j DROP
[4:240] -A HOSTAGENT-PREROUTING -m set --match-set hostagent-open dst -m set ! --match-set hostagent-from4 src -j DROP
[8:480] -A HOSTAGENT-GUARD -m set --match-set hostagent-guard dst -j DROP
[16:960] -A HOSTAGENT-GUARD -m set --match-set hostagent-guard dst -j ACCEPT
[99999999999999999999:1] -A HOSTAGENT-GUARD -m set --match-set hostagent-guard dst -j DROP
[1:1 -A HOSTAGENT-GUARD -m set --match-set hostagent-guard dst -j DROP
COMMIT
`
	table := parseSave(listing)[mangleTable]
	if diff := cmp.Diff(DropCount{Guard: 10, Source: 4}, table.drops(IPv4)); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
	if len(table.jumps) != 1 || len(table.ours[guardChain]) != 2 {
		t.Errorf("parsed jumps %v and rules %v", table.jumps, table.ours)
	}
}

func TestBackend(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		version := strings.Fields(shell(t, "iptables-"+string(variant)+" --version"))[1]
		want := "iptables-" + string(variant) + " " + strings.TrimPrefix(version, "v") + " + ipset"
		if diff := cmp.Diff(want, f.Backend()); diff != "" {
			t.Errorf("backend (-want +got):\n%s", diff)
		}
	})
}
