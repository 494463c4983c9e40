// SPDX-License-Identifier: MPL-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/systemd"
	"github.com/hostagent/hostagent/test/machine"
)

// The ports of the tests: the sidecar's, and one of the range that nobody has registered. Something listens on both.
const (
	sidecarPort = 21000
	closedPort  = 21005
)

const stateFile = "/var/lib/hostagent/state.json"

// consulUnit is a server of its own that keeps nothing.
const consulUnit = `[Unit]
After=network-online.target
[Service]
ExecStart=/usr/bin/consul agent -dev -data-dir=/var/lib/consul -bind=127.0.0.1 -client=127.0.0.1
[Install]
WantedBy=multi-user.target
`

// listenersUnit listens before there is any network to listen on.
const listenersUnit = `[Unit]
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
[Service]
ExecStart=/usr/bin/testapp -listen 0.0.0.0:21000 -listen 0.0.0.0:21005
[Install]
WantedBy=sysinit.target
`

// bootHost is a machine with hostagent's units as a package leaves them: all enabled.
type bootHost struct {
	*machine.Machine
	t *testing.T
}

// newBootHost makes a machine that is off. Config is hostagent's.
func newBootHost(t *testing.T, config string) *bootHost {
	t.Helper()
	programs := os.Getenv("HOSTAGENT_TEST_BIN_DIR")
	m := &bootHost{t: t, Machine: machine.New(t,
		"--bind-ro="+filepath.Join(programs, "hostagent")+":/usr/bin/hostagent", "--bind-ro="+filepath.Join(programs, "app")+":/usr/bin/testapp",
		"--bind-ro="+os.Getenv("CONSUL_BIN")+":/usr/bin/consul")}
	m.Write("/etc/hostagent.d/hostagent.hcl", config, 0o644)
	m.Write("/usr/lib/sysusers.d/hostagent.conf", systemd.Sysusers(), 0o644)
	m.Command("systemd-sysusers", "--root", m.Path("/"), m.Path("/usr/lib/sysusers.d/hostagent.conf"))
	for _, unit := range systemd.Units("/usr/bin/hostagent") {
		m.Write("/usr/lib/systemd/system/"+unit.Name, unit.Text, 0o644)
		m.turn("enable", unit.Name)
	}
	m.Write("/etc/systemd/system/consul.service", consulUnit, 0o644)
	m.Write("/etc/systemd/system/listeners.service", listenersUnit, 0o644)
	m.turn("enable", "consul.service", "listeners.service")
	return m
}

// turn enables, disables, masks or unmasks units, whether the machine is on or off.
func (m *bootHost) turn(how string, units ...string) {
	m.t.Helper()
	m.Command("systemctl", append([]string{"--quiet", "--root", m.Path("/"), how}, units...)...)
}

// guarded has a sidecar registered and waits until its port is saved as open, then turns off all that could open or close
// anything at the next boot but the two oneshots.
func (m *bootHost) guarded() {
	m.t.Helper()
	m.Wait(20*time.Second, "curl", "-sSf", "-X", "PUT", "127.0.0.1:8500/v1/agent/service/register",
		"-d", fmt.Sprintf(`{"Name":"web","Port":8080,"Connect":{"SidecarService":{"Port":%d}}}`, sidecarPort))
	m.Wait(20*time.Second, "grep", "-q", fmt.Sprintf(`"open":"%d"`, sidecarPort), stateFile)
	m.turn("disable", "consul.service", systemd.Guard)
}

// boots boots the machine, which is off, while the network tries both ports all the time, and returns what it saw.
func (m *bootHost) boots() *trial {
	m.t.Helper()
	trial := m.watch()
	defer trial.stop()
	m.Boot()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline) && (trial.open.Load() == 0 || trial.tries.Load() < 100); {
		time.Sleep(20 * time.Millisecond)
	}
	return trial
}

// restart stops the machine and boots it as boots does.
func (m *bootHost) restart() *trial {
	m.t.Helper()
	m.Shutdown()
	return m.boots()
}

// trial is what the network saw of a machine.
type trial struct {
	// open counts connections to the sidecar's port, answered what the port of nobody has answered, in any way, and tries
	// how often that was asked while the machine was up.
	open, answered, tries atomic.Int64
	cancel                context.CancelFunc
	asking                sync.WaitGroup
}

// watch asks both ports all the time, until stop.
func (m *bootHost) watch() *trial {
	ctx, cancel := context.WithCancel(context.Background())
	w := &trial{cancel: cancel}
	for range 4 {
		w.asking.Go(func() {
			w.ask(ctx, netip.AddrPortFrom(m.Address, sidecarPort), netip.AddrPortFrom(m.Address, closedPort))
		})
	}
	return w
}

func (w *trial) ask(ctx context.Context, open, closed netip.AddrPort) {
	dialer := net.Dialer{Timeout: 60 * time.Millisecond}
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "tcp", closed.String())
		switch {
		case err == nil:
			conn.Close()
			w.answered.Add(1)
		case errors.Is(err, syscall.ECONNREFUSED):
			w.answered.Add(1)
		case w.open.Load() > 0:
			w.tries.Add(1)
		}
		if conn, err = dialer.DialContext(ctx, "tcp", open.String()); err == nil {
			conn.Close()
			w.open.Add(1)
		}
		time.Sleep(5 * time.Millisecond) // while there is no route, nothing waits
	}
}

func (w *trial) stop() {
	w.cancel()
	w.asking.Wait()
}

// holds wants the sidecar's port to have been open and no other to have answered, ever.
func (m *bootHost) holds(w *trial) {
	m.t.Helper()
	if w.answered.Load() > 0 || w.open.Load() == 0 || w.tries.Load() < 50 {
		m.t.Errorf("the sidecar's port took %d connections, the closed one answered %d times and %d times not\n%s", w.open.Load(), w.answered.Load(), w.tries.Load(),
			m.Run("journalctl", "--no-pager", "-b", "-o", "short-monotonic", "-u", "hostagent*"))
	}
	if m.Run("ss", "-Hltn", fmt.Sprintf("sport = :%d", closedPort)) == "" {
		m.t.Errorf("nothing listens on %d, so that it does not answer proves nothing", closedPort)
	}
}

// bootedWell wants no unit to have failed and no ordering cycle, in this boot or in what systemd makes of all units.
func (m *bootHost) bootedWell() {
	m.t.Helper()
	if failed := strings.TrimSpace(m.Run("systemctl", "--failed", "--plain", "--no-legend")); failed != "" {
		unit, _, _ := strings.Cut(failed, " ")
		m.t.Errorf("units failed: %s\n%s", failed, m.Journal(unit))
	}
	m.noCycle()
}

var cycle = regexp.MustCompile(`(?i).*\bcycle\b.*`)

func (m *bootHost) noCycle() {
	m.t.Helper()
	verified := m.Run("bash", "-c", "systemd-analyze verify --generators=yes default.target 2>&1 || true")
	for _, text := range []string{verified, m.Run("journalctl", "--no-pager", "-b", "_PID=1")} {
		if found := cycle.FindAllString(text, -1); found != nil {
			m.t.Errorf("ordering cycles:\n%s", strings.Join(found, "\n"))
		}
	}
}

// inOrder wants each unit to have begun to start only when the one before it had started.
func (m *bootHost) inOrder(units ...string) {
	m.t.Helper()
	at := func(unit, event string) int {
		text := m.Run("systemctl", "show", "--value", "-p", event+"TimestampMonotonic", unit)
		micro, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || micro == 0 {
			m.t.Errorf("%s did not start: %q", unit, text)
		}
		return micro
	}
	for i, next := range units[1:] {
		if started, begun := at(units[i], "ActiveEnter"), at(next, "InactiveExit"); begun < started {
			m.t.Errorf("%s began to start %d µs before %s had started", next, started-begun, units[i])
		}
	}
}
