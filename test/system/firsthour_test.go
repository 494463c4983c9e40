// SPDX-License-Identifier: MPL-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/machine"
)

// firstHour is the walk-through for a new operator. Its blocks that begin with ```console are sessions, and this test runs
// every command of them, in order, on one booted machine:
//
//   - "# " begins a command of root's on the host, "other$ " one on another host of its network
//   - what follows is all that the command prints, to both of its outputs; a line "..." stands for any lines, "..." in a line
//     for any text in it
//   - a last line "(exit status N)" is how the command ends; without it, that is with 0
//   - in a block that begins with ```console wait, a command is called again until it prints that, because what it looks at
//     comes by itself
const firstHour = "../../packaging/FIRST-HOUR.md"

// Where the walk-through's host has its address.
const addressInText = "10.0.0.10"

const commandsWithin = time.Minute

// command is one of a session.
type command struct {
	line   int // in the document
	other  bool
	waits  bool
	text   string
	output []string
	status int
}

var exitStatus = regexp.MustCompile(`^\(exit status (\d+)\)$`)

// sessions reads the commands of a document.
func sessions(document string) ([]command, error) {
	var commands []command
	inside, waits := false, false
	number := 0
	for line := range strings.Lines(document) {
		number++
		line = strings.TrimRight(line, "\n")
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && inside:
			inside = false
		case fence:
			inside = true
			if info != "console" && info != "console wait" {
				return nil, fmt.Errorf("line %d: a block begins with %q, want console or console wait: all that stands in blocks is run", number, line)
			}
			waits = info == "console wait"
		case !inside:
		case strings.HasPrefix(line, "# "):
			commands = append(commands, command{line: number, waits: waits, text: strings.TrimPrefix(line, "# ")})
		case strings.HasPrefix(line, "other$ "):
			commands = append(commands, command{line: number, waits: waits, other: true, text: strings.TrimPrefix(line, "other$ ")})
		case len(commands) == 0:
			return nil, fmt.Errorf("line %d: output stands before the first command", number)
		default:
			c := &commands[len(commands)-1]
			if match := exitStatus.FindStringSubmatch(line); match != nil {
				if _, err := fmt.Sscan(match[1], &c.status); err != nil {
					return nil, err
				}
				continue
			}
			c.output = append(c.output, line)
		}
	}
	if inside {
		return nil, errors.New("the last block has no end")
	}
	return commands, nil
}

// pattern is what c has to print.
func (c *command) pattern() *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range c.output {
		if line == "..." {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + `[ \t]*\n`)
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// run calls c and returns what it printed and how it ended.
func (c *command) run(m *machine.Machine) (output string, status int, err error) {
	text := strings.ReplaceAll(c.text, addressInText, m.Address.String())
	ctx, cancel := context.WithTimeout(context.Background(), commandsWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", text)
	if !c.other {
		cmd = exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(m.Init()), "--all", "env", "-i",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
			"DEBIAN_FRONTEND=noninteractive", "bash", "-o", "pipefail", "-c", "cd; "+text)
	}
	cmd.WaitDelay = time.Second // what a command that is stuck has started holds its output
	out, err := cmd.CombinedOutput()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		status, err = ended.ExitCode(), nil
	}
	output = strings.ReplaceAll(string(out), m.Address.String(), addressInText)
	output = strings.ReplaceAll(output, "\r", "") // dpkg writes to a terminal of its own
	if output != "" && !strings.HasSuffix(output, "\n") {
		output += "\n"
	}
	return output, status, err
}

// TestFirstHour does what the walk-through tells an operator to do, and wants to see what it says he sees.
func TestFirstHour(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(firstHour)
	if err != nil {
		t.Fatal(err)
	}
	commands, err := sessions(string(text))
	if err != nil {
		t.Fatalf("%s: %v", firstHour, err)
	}
	m := meshHost(t)
	for _, c := range commands {
		pattern := c.pattern()
		deadline := time.Now().Add(settleWithin)
		for {
			output, status, err := c.run(m)
			if err != nil {
				t.Fatal(err)
			}
			if pattern.MatchString(output) && status == c.status {
				t.Logf("%s\n%s(exit status %d)", c.text, output, status)
				break
			}
			if !c.waits || time.Now().After(deadline) {
				t.Fatalf("%s:%d: %s\nends with %d, want %d, and prints\n%s\nwant\n%s", firstHour, c.line, c.text, status, c.status,
					output, strings.Join(c.output, "\n"))
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// meshConfig is the configuration of Consul on the host of the walk-through, with an address and the operator's token.
const meshConfig = `server = true
bootstrap_expect = 1
node_name = "web-1"
data_dir = "/opt/consul"
bind_addr = %q
disable_update_check = true
performance { raft_multiplier = 1 }
ui_config { enabled = true }
acl {
  enabled = true
  default_policy = "deny"
  tokens { initial_management = %q, agent = %[2]q }
}
services {
  name = "web"
  port = 8080
  token = %[2]q
  connect { sidecar_service {} }
}
services {
  name = "billing"
  port = 8081
  token = %[2]q
  connect { sidecar_service {} }
}
`

// meshHost boots the host of the walk-through: a Consul that denies by default, with a service in order, one that listens on
// the network, and a program on a port of the sidecar range. Nothing of hostagent is on it but its packages, in /root.
func meshHost(t *testing.T) *machine.Machine {
	t.Helper()
	m := machine.New(t, "--bind-ro="+os.Getenv("CONSUL_BIN")+":/usr/bin/consul")
	for version, folder := range map[string]string{now: "/root/", next: "/root/next/"} {
		path := packageFile(t, version, "deb")
		m.Copy(path, folder+filepath.Base(path), 0o644)
	}
	const operator = "5d0a6a3e-2d3b-4f0f-9a53-0d0c7a1c9d11"
	m.Write("/root/operator.token", operator, 0o600)
	m.Write("/etc/sysusers.d/consul.conf", "u consul - - /opt/consul\nu app - -\n", 0o644)
	m.Write("/etc/tmpfiles.d/consul.conf", "d /opt/consul 0700 consul consul\nd /etc/consul.d 0750 root consul\n", 0o644)
	m.Write("/etc/consul.d/consul.hcl", fmt.Sprintf(meshConfig, m.Address, operator), 0o644)
	units := []string{"consul"}
	unit := func(name, user, command string) {
		m.Write("/etc/systemd/system/"+name+".service", fmt.Sprintf("[Unit]\nStartLimitIntervalSec=0\n"+
			"[Service]\nUser=%s\nExecStart=%s\nRestart=on-failure\nRestartSec=200ms\n\n", user, command), 0o644)
		units = append(units, name)
	}
	unit("consul", "consul", "/usr/bin/consul agent -config-dir /etc/consul.d")
	for name, at := range map[string]string{"web": "127.0.0.1:8080", "billing": "0.0.0.0:8081", "reports": "0.0.0.0:21050"} {
		m.Copy(built("app"), "/usr/local/bin/"+name, 0o755)
		unit(name, "app", "/usr/local/bin/"+name+" -name "+name+" -listen "+at)
	}
	m.Write("/etc/sidecar.env", "CONSUL_HTTP_TOKEN="+operator+"\n", 0o600)
	for _, name := range []string{"web", "billing"} {
		unit(name+"-sidecar", "app", "/usr/bin/consul connect proxy -sidecar-for "+name)
		m.Write("/etc/systemd/system/"+name+"-sidecar.service.d/token.conf", "[Service]\nEnvironmentFile=/etc/sidecar.env\n", 0o644)
	}
	m.Boot()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Run("journalctl", "--no-pager", "-n", "60", "-u", "hostagent"))
		}
	})
	m.Run(append([]string{"systemctl", "start"}, units...)...)
	for _, port := range []string{"8080", "8081", "21000", "21001", "21050"} {
		m.Wait(settleWithin, "bash", "-c", "ss -Hltn sport = :"+port+" | grep -q .")
	}
	return m
}
