// SPDX-License-Identifier: MPL-2.0

package system

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/packaging"
)

// others are ports on which somebody listens who has nothing to do with the mesh: in the sidecar range, at its ends, beside it.
var others = []string{"0.0.0.0:20999", "0.0.0.0:21050", "[::]:21255", "0.0.0.0:21256", "0.0.0.0:22222"}

const seenUnguarded = "20999 open 21000 open 21001 refused 21050 open 21255 open 21256 open 22222 open 8080 open"

// Without listeners and with them, the range is closed, but for the sidecar; beside it everything is as it was.
const (
	seenGuarded     = "20999 open 21000 open 21001 dropped 21050 dropped 21255 dropped 21256 open 22222 open 8080 open"
	seenQuarantined = "20999 open 21000 open 21001 dropped 21050 dropped 21255 dropped 21256 open 22222 open 8080 dropped"
)

// quarantine is configuration of two lines.
const quarantine = "enforce = \"quarantine\"\nquarantine_ports = [8080]\n"

// The first days of an operator: install, observe, guard, see what is exposed, quarantine it, mend it.
func TestStory(t *testing.T) {
	t.Parallel()
	p := newProduct(t, true)
	p.sidecar("web", p.register("web", 8080, 0))
	p.app("web", "0.0.0.0:8080")
	p.app("others", others...)
	said := p.install(now)
	p.tells(said, packaging.Guard)
	p.grantToken()
	p.checkTurns("hostagent alive", "passing", "observe mode")
	p.reaches(seenUnguarded)

	p.guard()
	p.reaches(seenGuarded)
	p.checkTurns("Firewall", "passing", "Open: 21000")
	p.checkTurns("Listeners of web", "warning", "web listens on tcp 0.0.0.0:8080")
	p.checkTurns("Sidecar range", "warning", "21050")
	p.says("warning exposed-listener")
	p.statusText("guarding 21000-21255")

	p.configure(quarantine)
	p.reaches(seenQuarantined)
	p.statusText("guarding 8080, 21000-21255")
	p.Run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080") // the host itself still reaches it
	p.wrongConfiguration()
	p.killed()
	p.consulAway()

	p.app("web", "127.0.0.1:8080")
	p.checkTurns("Listeners of web", "passing", "web listens on loopback only")
	p.journalReads()
}

// wrongConfiguration reloads a configuration that is wrong: the old one stays, and the log names the line.
func (p *product) wrongConfiguration() {
	p.t.Helper()
	p.Write(own, quarantine+"close_delay = \"soon\"\n", 0o644)
	_, _ = p.Try("systemctl", "reload", "hostagent") // the unit may say so, too
	p.until("the journal names the wrong line", func() error {
		_, err := p.Try("bash", "-c", "journalctl -b -u hostagent -p err -o cat | grep -F 'the old one stays' | grep -F '"+own+":3: close_delay'")
		return err
	})
	p.says("guard mode")
	p.reaches(seenQuarantined)
	p.configure(quarantine)
}

// statusText waits until systemctl status shows text.
func (p *product) statusText(text string) {
	p.t.Helper()
	p.until("systemctl status shows "+text, func() error {
		if shown := p.Run("systemctl", "--no-pager", "--lines", "0", "--full", "status", "hostagent"); !strings.Contains(shown, "Status: \""+text) {
			return fmt.Errorf("it shows %s", shown)
		}
		return nil
	})
}

// killed kills hostagent: nothing opens and nothing closes until systemd has started it anew, and then neither.
func (p *product) killed() {
	p.t.Helper()
	closed, before := p.knock(21050), p.show("MainPID")
	p.Run("systemctl", "kill", "--signal", "KILL", "hostagent")
	p.until("systemd starts hostagent again", func() error {
		_, err := p.Try("bash", "-c", `new=$(systemctl show -P MainPID hostagent); [ "$new" != 0 ] && [ "$new" != `+before+` ]`)
		return err
	})
	p.says("guard mode, started")
	p.reaches(seenQuarantined)
	p.wasClosed(closed)
}

// consulAway stops Consul and starts it again: nothing changes for the network.
func (p *product) consulAway() {
	p.t.Helper()
	closed := p.knock(21050)
	p.Run("systemctl", "stop", "consul")
	p.says("FAILS")
	p.reaches(seenQuarantined)
	p.Run("systemctl", "start", "consul")
	p.consulIsUp()
	p.checkTurns("hostagent alive", "passing", "guard mode")
	p.reaches(seenQuarantined)
	p.wasClosed(closed)
}

// journalReads wants every line of hostagent in the journal to be for people: with its priority, without a time of its own.
func (p *product) journalReads() {
	p.t.Helper()
	priorities := map[string]string{"DEBUG": "7", "INFO": "6", "WARN": "4", "ERROR": "3"}
	level := regexp.MustCompile(`^level=(\w+) msg=`)
	stamped := regexp.MustCompile(`\btime=|\d{4}-\d\d-\d\d[T ]\d|\b\d\d:\d\d:\d\d`)
	seen := map[string]int{}
	for line := range strings.Lines(p.Run("journalctl", "--no-pager", "-b", "-u", "hostagent", "-o", "json", "_TRANSPORT=stdout")) {
		var entry struct {
			Message  string `json:"MESSAGE"` // a list of bytes, which is an error here, where it holds control characters
			Priority string `json:"PRIORITY"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			p.t.Errorf("a line of the journal is no text: %v\n%s", err, line)
			continue
		}
		wrong := stamped.MatchString(entry.Message)
		if found := level.FindStringSubmatch(entry.Message); found != nil { // others are what config validate says of a wrong one, at a reload
			wrong = wrong || priorities[found[1]] != entry.Priority
		}
		if wrong {
			p.t.Errorf("a line of the journal has priority %s: %s", entry.Priority, entry.Message)
		}
		seen[entry.Priority]++
	}
	if seen["6"] == 0 || seen["4"] == 0 || seen["3"] == 0 {
		p.t.Errorf("the journal has lines of these priorities: %v", seen)
	}
}
