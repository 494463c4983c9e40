// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// lives is a host whose agent comes and goes in every way that operators know, watched from the network. Some of its
// services are registered by files, as many as take the agent a while, and some by calls.
type lives struct {
	*world
	agent  *host.Process
	sentry *sentry
	byCall uint16
	byFile []uint16
	data   string
}

const livesDelay = 2 * time.Second // close_delay

func newLives(t *testing.T) *lives {
	t.Helper()
	files := t.TempDir()
	l := &lives{data: filepath.Join(t.TempDir(), "data")}
	for i := range 103 { // 206 services
		text := fmt.Sprintf(`{"service":{"name":"file-%03d","port":%d,"connect":{"sidecar_service":{"port":%d}}}}`, i, 9000+i, 21010+i)
		if err := os.WriteFile(filepath.Join(files, fmt.Sprintf("%03d.json", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l.byFile = append(l.byFile, uint16(21010+i))
	}
	l.world = newWorld(t, host.ConsulOptions{ConfigDir: files, DataDir: l.data})
	l.byCall = l.register("web", 8080, 21000)
	l.listenOn("everybody", l.byCall, 21001, 21002, l.byFile[0], l.byFile[102], 21200, 21255)
	l.agent = l.start(fmt.Sprintf("close_delay = %q\npoll_interval = \"200ms\"\n", livesDelay.String()), "--mode", "guard")
	l.guarded()
	l.eventually(l.byCall, host.Open, 5*time.Second)
	l.sentry = l.world.sentry()
	l.sentry.expect(host.Open, l.byCall, l.byFile[0], l.byFile[102])
	l.sentry.expect(host.Dropped, 21200, 21255)
	return l
}

// consulCommand runs the agent's own program.
func (l *lives) consulCommand(args ...string) {
	l.t.Helper()
	binary, err := host.ConsulBinary(l.ctx, io.Discard)
	l.must(err)
	out, code, err := l.Run(l.ctx, binary, args...)
	l.must(err)
	if code != 0 {
		l.t.Fatalf("consul %s ended with %d:\n%s", strings.Join(args, " "), code, out)
	}
}

// stands waits for longer than close_delay.
func (l *lives) stands(story string) {
	l.t.Helper()
	time.Sleep(livesDelay + time.Second)
	l.checkTurns("alive", "passing", "guard mode")
	l.sentry.calm(l.t, story)
}

// TestAgentComesAndGoes: reloads, restarts, a leave, maintenance and what else happens to a healthy agent closes no port of a
// registered sidecar.
func TestAgentComesAndGoes(t *testing.T) {
	netns.Once(t)
	l := newLives(t)
	for range 8 {
		l.must(l.consul.Reload(l.ctx))
		time.Sleep(150 * time.Millisecond)
	}
	l.stands("reloads")

	l.must(l.consul.Restart(l.ctx))
	l.stands("a restart")

	l.must(l.consul.Kill())
	time.Sleep(livesDelay + time.Second)
	l.sentry.calm(t, "an agent that was killed")
	l.must(l.consul.Restart(l.ctx))
	l.stands("and started again")

	l.consulCommand("maint", "-enable", "-reason", "a test")
	l.consulCommand("maint", "-enable", "-service", "web")
	l.stands("maintenance")
	l.consulCommand("maint", "-disable", "-service", "web")
	l.consulCommand("maint", "-disable")

	l.consulCommand("force-leave", "host")
	l.stands("a force-leave of the host itself")

	l.consulCommand("leave")
	time.Sleep(livesDelay + time.Second)
	l.sentry.calm(t, "an agent that has left")
	l.must(l.consul.Restart(l.ctx))
	l.stands("and joined again")
	t.Log(l.sentry.stop(t))
}

// TestServicesThatMoveAndGo: what is registered again on another port, and what an agent has forgotten for good, closes
// after close_delay and not before.
func TestServicesThatMoveAndGo(t *testing.T) {
	netns.Once(t)
	l := newLives(t)
	api := l.consul.API().Agent()
	l.must(api.ServiceRegister(withSidecar("web", 8080, 21000))) // as it stands
	l.sentry.expect("", 21001)
	moved := time.Now()
	l.must(api.ServiceRegister(withSidecar("web", 8080, 21001)))
	l.eventually(21001, host.Open, 5*time.Second)
	l.sentry.expect(host.Open, 21001)
	l.closes(moved, 21000)
	l.sentry.calm(t, "a service that moved")

	l.must(l.consul.Stop())
	l.must(os.RemoveAll(l.data))
	time.Sleep(livesDelay + time.Second)
	l.sentry.calm(t, "an agent that is away")
	back := time.Now()
	l.must(l.consul.Restart(l.ctx))
	l.closes(back, 21001)
	l.checkTurns("alive", "passing", "guard mode")
	l.sentry.calm(t, "an agent that came back with its files alone")
	if log := l.agent.Log(); strings.Count(log, "step=consul") > 6 {
		t.Errorf("too many lines of trouble")
	}
	t.Log(l.sentry.stop(t))
}

// closes wants a port to be open for close_delay since its registration went, at the least, and then closed. When it does
// hangs on the agent, which may take many seconds to answer with 206 services to register.
func (l *lives) closes(since time.Time, port uint16) {
	l.t.Helper()
	time.Sleep(time.Until(since.Add(livesDelay - 100*time.Millisecond)))
	l.sentry.expect("", port)
	l.eventually(port, host.Dropped, 40*time.Second)
	l.sentry.expect(host.Dropped, port)
}
