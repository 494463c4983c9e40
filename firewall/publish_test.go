// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// operators is a ruleset file that drops by default and accepts what is in a set; the flags of the set are left open.
const operators = `flush ruleset
table inet filter {
	set mesh_ports { type inet_service; %s }
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		meta l4proto ipv6-icmp accept
		tcp dport @mesh_ports accept
	}
}
`

func meshPorts() SetName { return SetName{"inet", "filter", "mesh_ports"} }

// loadFile loads a ruleset file as the operator does.
func loadFile(t *testing.T, ruleset string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nftables.conf")
	if err := os.WriteFile(path, []byte(ruleset), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, "nft -f "+path)
}

// publish calls Publish and wants it to change something, or not.
func publish(t *testing.T, f *Firewall, open PortSet, changes bool) {
	t.Helper()
	changed, err := f.Publish(context.Background(), meshPorts(), open)
	if err != nil || changed != changes {
		t.Fatalf("Publish %s: changed %v, want %v; %v", open, changed, changes, err)
	}
}

// TestPublishTraffic: the operator's own rule lets in what is published, through every change and reload.
func TestPublishTraffic(t *testing.T) {
	for _, flags := range []string{"", "flags interval;", "flags interval; auto-merge;", "size 16;"} {
		t.Run(flags, func(t *testing.T) {
			f := start(t, VariantNFT)
			client := newPeer(t, 1)
			listen(t, 21000, 21001, 65535)
			loadFile(t, fmt.Sprintf(operators, flags))
			expect := func(what string, port int, open bool) {
				t.Helper()
				client.do(func() {
					for _, host := range hosts() {
						if open && !reach(host, port, nil) {
							t.Errorf("%s: port %d of %s cannot be reached", what, port, host)
						} else if !open && !blocked(host, port) {
							t.Errorf("%s: port %d of %s is open", what, port, host)
						}
					}
				})
			}
			expect("before", 21000, false)
			mustApply(t, f, Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000)}) // cannot help here
			publish(t, f, Ports(21000, 65535), true)
			expect("published", 21000, true)
			expect("published", 65535, true)
			expect("not published", 21001, false)
			publish(t, f, Ports(21000, 65535), false)
			publish(t, f, Ports(21000, 21001, 21002, 21004), true)
			mustApply(t, f, Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000, 21001)})
			expect("one more", 21001, true)
			loadFile(t, fmt.Sprintf(operators, flags))
			publish(t, f, Ports(21000, 21001), true)
			expect("after the operator's reload", 21000, true)
			publish(t, f, PortSet{}, true)
			expect("emptied", 21000, false)
			publish(t, f, PortSet{}, false)
		})
	}
}

// TestPublishIsExact: the set holds what it should and nothing else, whatever was in it, and large ones too.
func TestPublishIsExact(t *testing.T) {
	for _, flags := range []string{"", "flags interval; elements = { 1-100, 65000-65535 };"} {
		t.Run(flags, func(t *testing.T) {
			f := start(t, VariantNFT)
			loadFile(t, fmt.Sprintf(operators, flags))
			var scattered PortSet
			for port := uint16(1); port < 10000; port += 2 {
				scattered.Add(port)
			}
			for _, open := range []PortSet{Ports(21000, 21001, 21003), scattered, portRange(1, 65535), portRange(1, 1), Ports(65535), {}} {
				if flags == "" && open.Len() > 10000 {
					continue
				}
				publish(t, f, open, true)
				set, err := findSet(meshPorts())
				if err != nil {
					t.Fatal(err)
				}
				if err := set.load(); err != nil {
					t.Fatal(err)
				}
				if got := set.ports(); got != open {
					t.Fatalf("the set holds %.200s, want %.200s", got, open)
				}
				listed := shell(t, "nft list set inet filter mesh_ports") // which reads the kernel's answer by itself
				if open.Len() == 3 && !strings.Contains(strings.ReplaceAll(listed, "21000, 21001", "21000-21001"), "elements = { 21000-21001, 21003 }") {
					t.Errorf("nft lists\n%s", listed)
				}
			}
		})
	}
}

// TestPublishIsVerified: what another hand changes is put back by the next call, and a call without change is cheap.
func TestPublishIsVerified(t *testing.T) {
	f := start(t, VariantNFT)
	loadFile(t, fmt.Sprintf(operators, ""))
	publish(t, f, Ports(21000), true)
	publish(t, f, Ports(21000), false)
	if !f.publish.known {
		t.Error("what was verified is not remembered")
	}
	for _, harm := range []string{"flush set inet filter mesh_ports", "add element inet filter mesh_ports '{ 22 }'"} {
		shell(t, "nft "+harm)
		publish(t, f, Ports(21000), true)
	}
	shell(t, "nft add rule inet filter input counter")
	publish(t, f, Ports(21000), false)
}

func TestPublishErrors(t *testing.T) {
	tests := []struct {
		name, nft string
		set       SetName
		want      error
		says      string
	}{
		{"no table", "", meshPorts(), ErrNoSet, "nft add table inet filter; nft add set inet filter mesh_ports '{ type inet_service; }'"},
		{"no set", "add table inet filter", meshPorts(), ErrNoSet, "nft add set inet filter mesh_ports '{ type inet_service; }'"},
		{"another family", "add table ip filter; add set ip filter mesh_ports { type inet_service; }", meshPorts(), ErrNoSet, ""},
		{"addresses", "add table inet filter; add set inet filter mesh_ports { type ipv4_addr; }", meshPorts(), ErrWrongSet, "type inet_service"},
		{"a map", "add table inet filter; add map inet filter mesh_ports { type inet_service : verdict; }", meshPorts(), ErrWrongSet, ""},
		{"timeouts", "add table inet filter; add set inet filter mesh_ports { type inet_service; flags timeout; }", meshPorts(), ErrWrongSet, ""},
		{"dynamic", "add table inet filter; add set inet filter mesh_ports { type inet_service; flags dynamic; }", meshPorts(), ErrWrongSet, ""},
		{"constant", "add table inet filter; add set inet filter mesh_ports { type inet_service; flags constant; }", meshPorts(), ErrWrongSet, ""},
		{"two fields", "add table inet filter; add set inet filter mesh_ports { type inet_service . inet_service; }", meshPorts(), ErrWrongSet, ""},
		{"too small", "add table inet filter; add set inet filter mesh_ports { type inet_service; size 1; }", meshPorts(), ErrFullSet, "larger size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, VariantNFT)
			shell(t, "nft '"+tt.nft+"'")
			changed, err := f.Publish(context.Background(), tt.set, Ports(21000, 21001))
			if !errors.Is(err, tt.want) || changed || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("Publish: %v, %v\nwant %v and %q", changed, err, tt.want, tt.says)
			}
		})
	}
}

// TestPublishOwned: a table that belongs to a running program is left alone.
func TestPublishOwned(t *testing.T) {
	f := start(t, VariantNFT)
	owner := exec.Command("nft", "-i")
	orders, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(orders, "add table inet filter { flags owner; }\nadd set inet filter mesh_ports { type inet_service; }\n")
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(shell(t, "nft list ruleset"), "mesh_ports"); {
		if time.Now().After(deadline) {
			t.Fatal("the owner made no set")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := f.Publish(context.Background(), meshPorts(), Ports(21000)); !errors.Is(err, ErrOwnedSet) {
		t.Errorf("Publish: %v, want %v", err, ErrOwnedSet)
	}
	orders.Close()
	if err := owner.Wait(); err != nil {
		t.Error(err)
	}
}
