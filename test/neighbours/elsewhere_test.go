// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/sockets"
)

// publishedScan is what the test reads of a scan.
type publishedScan struct {
	Findings []struct {
		ID, Message, Remedy string
		Behind              *container
	}
	Published []container
}

type container struct {
	Port                   uint16
	To, Container, Runtime string
}

// TestPublishedContainer: an application in a container that is published is told with the container behind it, with
// Docker's proxy and without; one that is not published is exposed on no port of the host.
func TestPublishedContainer(t *testing.T) {
	// The other tests' hosts have containers of Docker's usual addresses on this machine.
	for _, test := range []struct{ name, options string }{
		{"with its proxy", "--bip 172.28.1.1/24"}, {"without", "--bip 172.28.2.1/24 --userland-proxy=false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			d := b.docker(test.options)
			d.runs("web", fmt.Sprintf("-p %d:80", service))
			d.runs("hidden", "", fmt.Sprintf("[::]:%d", plain))
			b.register()
			b.sidecar()
			id := strings.TrimSpace(b.sh("docker inspect -f '{{.Id}}' web"))[:12]
			ip := strings.TrimSpace(b.sh("docker inspect -f '{{.NetworkSettings.IPAddress}}' web"))

			want := container{Port: service, To: ip + ":80", Container: id, Runtime: "docker"}
			check := func() {
				t.Helper()
				scan := b.published()
				found := 0
				for _, f := range scan.Findings {
					if f.ID != "exposed-listener" {
						continue
					}
					found++
					if f.Behind == nil || *f.Behind != want || !strings.Contains(f.Message, fmt.Sprintf("%s:80 in container %s (docker)", ip, id)) ||
						!strings.Contains(f.Remedy, fmt.Sprintf("docker run -p 127.0.0.1:%d:80", service)) {
						t.Errorf("found %+v, behind %+v; want %+v", f, f.Behind, want)
					}
				}
				if found == 0 || len(scan.Published) != 1 || scan.Published[0] != want {
					t.Errorf("%d findings, published %+v; want %+v", found, scan.Published, want)
				}
			}
			check()
			hidden := strings.TrimSpace(b.sh("docker inspect -f '{{.Id}}' hidden"))[:12]
			if got := b.portsIn(hidden); !slices.Equal(got, []uint16{plain}) {
				t.Errorf("in container %s ports %v listen, want %d", hidden, got, plain)
			}
			if !strings.Contains(test.options, "=false") { // the proxy alone, as where the rules are not to be seen
				b.sh("iptables -t nat -F DOCKER")
				check()
			}
		})
	}
}

// portsIn lists the ports on which something listens in the network namespace of a container.
func (b *box) portsIn(id string) (ports []uint16) {
	b.t.Helper()
	b.must(b.InHost(func() error {
		spaces, err := sockets.NewElsewhere().List(b.ctx)
		for _, n := range spaces.Namespaces {
			for _, l := range spaces.Listeners {
				if n.Container == id && l.Namespace == n.ID {
					ports = append(ports, l.Addr.Port())
				}
			}
		}
		return err
	}))
	return ports
}

// published is a scan of the box.
func (b *box) published() (scan publishedScan) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	out, _ := b.command(ctx, "hostagent scan --format json 2>/dev/null").Output() // findings make its exit status
	if err := json.Unmarshal(out, &scan); err != nil {
		b.t.Fatalf("hostagent scan says %q: %v", out, err)
	}
	return scan
}
