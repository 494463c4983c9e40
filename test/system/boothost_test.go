// SPDX-License-Identifier: MPL-2.0

package system

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/systemd"
)

// The ports of the tests: the sidecar's, and one of the range that nobody has registered. Something listens on both.
const (
	sidecarPort = 21000
	closedPort  = 21005
)

const stateFile = "/var/lib/hostagent/state.json"

// listenersUnit listens before there is any network to listen on.
const listenersUnit = `[Unit]
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
[Service]
ExecStart=/usr/local/bin/app -listen 0.0.0.0:21000 -listen 0.0.0.0:21005
[Install]
WantedBy=sysinit.target
`

// bootHost is a machine with hostagent's units as a package leaves them: all enabled.
type bootHost struct{ *host }

// newBootHost makes one that is off. Config is hostagent's.
func newBootHost(t *testing.T, config string) *bootHost {
	t.Helper()
	m := &bootHost{newHost(t, "--bind-ro="+built("hostagent")+":"+program)}
	m.Write(settings, config, 0o644)
	m.Write("/usr/lib/sysusers.d/hostagent.conf", systemd.Sysusers(), 0o644)
	m.Command("systemd-sysusers", "--root", m.Path("/"), m.Path("/usr/lib/sysusers.d/hostagent.conf"))
	for _, unit := range systemd.Units(program) {
		m.Write("/usr/lib/systemd/system/"+unit.Name, unit.Text, 0o644)
		m.turn("enable", unit.Name)
	}
	m.Write("/etc/systemd/system/listeners.service", listenersUnit, 0o644)
	m.turn("enable", "consul.service", "listeners.service")
	return m
}

// turn enables, disables, masks or unmasks units, whether the machine is on or off.
func (m *bootHost) turn(how string, units ...string) {
	m.t.Helper()
	m.Command("systemctl", append([]string{"--quiet", "--root", m.Path("/"), how}, units...)...)
}

// leftOpen has a sidecar registered and waits until its port is saved as open, then turns off all that could open or close
// anything at the next boot but the two oneshots.
func (m *bootHost) leftOpen() {
	m.t.Helper()
	m.consulIsUp()
	m.register("web", 8080, sidecarPort)
	m.Wait(settleWithin, "grep", "-q", fmt.Sprintf(`"open":"%d"`, sidecarPort), stateFile)
	m.turn("disable", "consul.service", systemd.Guard)
}

// boots boots the machine, which is off, while the network knocks at both ports all the time, and returns what it saw.
func (m *bootHost) boots() *trial {
	m.t.Helper()
	seen := &trial{open: m.knock(sidecarPort), closed: m.knock(closedPort)}
	m.Boot()
	for deadline := time.Now().Add(15 * time.Second); seen.open.answered.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	// From here on the host is up.
	before := seen.closed.tried.Load()
	time.Sleep(2 * time.Second)
	seen.tries = seen.closed.tried.Load() - before
	seen.open.rest()
	seen.closed.rest()
	return seen
}

// restart stops the machine and boots it as boots does.
func (m *bootHost) restart() *trial {
	m.t.Helper()
	m.Shutdown()
	return m.boots()
}

// trial is what the network saw of a machine that booted, and how often it knocked at the closed port when the other one was
// open already.
type trial struct {
	open, closed *knocks
	tries        int32
}

// seen is how often the closed port answered, in any way.
func (w *trial) seen() int32 { return w.closed.accepted.Load() + w.closed.refused.Load() }

// holds wants the sidecar's port to have been open and no other to have answered, ever.
func (m *bootHost) holds(w *trial) {
	m.t.Helper()
	if open := w.open.answered.Load(); w.seen() > 0 || open == 0 || w.tries < 50 {
		m.t.Errorf("the sidecar's port took %d connections; the closed one answered %d of %d times, %d of them when the host was up\n%s", open, w.seen(),
			w.closed.tried.Load(), w.tries, m.Run("journalctl", "--no-pager", "-b", "-o", "short-monotonic", "-u", "hostagent*"))
	}
	if m.Run("ss", "-Hltn", fmt.Sprintf("sport = :%d", closedPort)) == "" {
		m.t.Errorf("nothing listens on %d, so that it does not answer proves nothing", closedPort)
	}
}

// bootedWell wants no unit to have failed and no ordering cycle, in this boot or in what systemd makes of all units.
func (m *bootHost) bootedWell() {
	m.t.Helper()
	if failed := strings.TrimSpace(m.failed()); failed != "" {
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
