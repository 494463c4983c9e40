// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// storm is what TestFaultStorm does to a host.
type storm struct {
	*world
	faulty *host.Faulty
	sentry *sentry
	random *rand.Rand
	agent  *host.Process
	armed  []*host.Fault
	streak int // requests for services that have failed since the last whole answer
	// reloads are signals sent: each leaves two connections that end when they were idle for a while
	reloads int
	kinds   map[host.Route][]string
	going   map[uint16]time.Time // ports of services that were deregistered, and when
	spare   []uint16
	guest   string // the service that is registered just now
	port    uint16 // of its sidecar
}

const (
	stormFaults = 200
	stormDelay  = 3 * time.Second // close_delay
)

// stormSeed is HOSTAGENT_FAULT_SEED, or another one each time.
func stormSeed(t *testing.T) uint64 {
	t.Helper()
	text, set := os.LookupEnv("HOSTAGENT_FAULT_SEED")
	if !set {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("HOSTAGENT_FAULT_SEED: %v", err)
	}
	return seed
}

// TestFaultStorm: 200 faults of the agent, one after the other, while services come and go. Seen from the network no port
// of a registered sidecar is ever closed, and no other one ever open.
func TestFaultStorm(t *testing.T) {
	netns.Once(t)
	seed := stormSeed(t)
	s := &storm{
		world: newWorld(t, host.ConsulOptions{}), random: rand.New(rand.NewPCG(seed, seed)),
		kinds: map[host.Route][]string{}, going: map[uint16]time.Time{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to see these faults again: HOSTAGENT_FAULT_SEED=%d", seed)
		}
	})
	s.begin()
	before, started := s.weigh(), time.Now()
	for i := range stormFaults {
		s.fault()
		if i%40 == 10 {
			s.change(i)
		}
		s.lookAtGoing()
	}
	t.Logf("%d faults took %v", stormFaults, time.Since(started).Round(time.Second))
	s.last()
	s.end(before)
}

// begin registers services, and starts what listens on their ports and on others, hostagent and the sentry.
func (s *storm) begin() {
	s.t.Helper()
	var err error
	s.faulty, err = s.StartFaulty()
	s.must(err)
	s.t.Cleanup(func() { s.faulty.Close() })
	_, assigned := s.service("web", 8080, "127.0.0.1:8080")
	open := []uint16{assigned}
	for i, name := range []string{"api", "db"} {
		port := s.register(name, 9000+i, 0)
		s.listenOn(name, port)
		open = append(open, port)
	}
	closed := []uint16{21100, 21222, 21255} // 21222 is what a fault names
	for port := uint16(21020); port < 21040; port++ {
		s.spare = append(s.spare, port)
	}
	s.listenOn("others", append(closed, s.spare...)...)
	s.agent = s.start(fmt.Sprintf("close_delay = %q\npoll_interval = \"200ms\"\ncheck_interval = \"1s\"\nprobe = true\n"+
		"allow_from = [\"cluster\", \"10.99.0.0/24\", \"fd00:99::/64\"]\nconsul { timeout = \"300ms\" }\n", stormDelay.String()),
		"--mode", "guard", "--consul-address", host.FaultyAddress)
	s.guarded()
	s.checkTurns("service:web", "passing", "")
	s.sentry = s.world.sentry()
	s.sentry.expect(host.Open, open...)
	s.sentry.expect(host.Dropped, closed...)
	s.sentry.expect(host.Dropped, s.spare[:2]...)
}

// fault arms the next fault, and waits for it where requests for it are many.
func (s *storm) fault() {
	s.t.Helper()
	route := s.route()
	times := 1
	if route == host.RouteServices {
		times = []int{1, 1, 1, 1, 1, 1, 1, 1, 2, 3}[s.random.IntN(10)]
	}
	fault, err := host.NewFault(s.random, s.kind(route), route, times)
	s.must(err)
	s.armed = append(s.armed, fault)
	s.faulty.Arm(fault)
	switch route {
	case host.RouteServices:
	case host.RouteMembers, host.RouteRoots:
		s.askAll()
		return
	default:
		return // it is met soon
	}
	s.wait(fault)
	s.streak += times
	if fault.Kind == host.Forgetful || s.streak >= 2 {
		s.answered()
	}
}

// askAll makes hostagent ask for what it asks for now and then only.
func (s *storm) askAll() {
	s.t.Helper()
	s.reloads++
	s.must(s.agent.Signal(unix.SIGHUP))
}

// route chooses what fails. Most that hostagent decides hangs on services.
func (s *storm) route() host.Route {
	switch n := s.random.IntN(100); {
	case n < 45:
		return host.RouteServices
	case n < 60:
		return host.RouteSelf
	case n < 74:
		return host.RouteChecks
	case n < 83:
		return host.RouteUpdate
	case n < 91:
		return host.RouteRegister
	case n < 96:
		return host.RouteMembers
	}
	return host.RouteRoots
}

// kind chooses how a route fails: each kind in turn, in an order of chance.
func (s *storm) kind(route host.Route) string {
	if len(s.kinds[route]) == 0 {
		s.kinds[route] = host.FaultKinds(route)
		if route == host.RouteServices {
			s.kinds[route] = append(s.kinds[route], host.Forgetful, host.Forgetful)
		}
		s.random.Shuffle(len(s.kinds[route]), func(i, j int) {
			s.kinds[route][i], s.kinds[route][j] = s.kinds[route][j], s.kinds[route][i]
		})
	}
	last := len(s.kinds[route]) - 1
	defer func() { s.kinds[route] = s.kinds[route][:last] }()
	return s.kinds[route][last]
}

// wait waits until a fault was met as often as it should be.
func (s *storm) wait(fault *host.Fault) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; s.askAll() { // a request that was cut off is not made again by itself
		select {
		case <-fault.Done():
			return
		case <-time.After(2 * time.Second):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("nobody has met the fault %s", fault.Text)
		}
	}
}

// answered waits for a whole answer to a request for services.
func (s *storm) answered() {
	s.t.Helper()
	before := s.faulty.Passed(host.RouteServices)
	s.until("hostagent has asked for services again", func() error {
		if s.faulty.Passed(host.RouteServices) == before {
			return errors.New("it has not")
		}
		return nil
	})
	s.streak = 0
}

// change registers a service at the agent itself, which must open, and deregisters the one before, which must not close
// for close_delay.
func (s *storm) change(i int) {
	s.t.Helper()
	s.answered() // what a forgetful agent has left out has been told again
	if s.guest != "" {
		s.must(s.consul.API().Agent().ServiceDeregister(s.guest))
		s.going[s.port] = time.Now()
	}
	s.guest, s.port, s.spare = fmt.Sprint("guest-", i), s.spare[0], s.spare[1:]
	s.sentry.expect("", s.port)
	s.register(s.guest, 7000+i, int(s.port))
	s.eventually(s.port, host.Open, 15*time.Second)
	s.sentry.expect(host.Open, s.port)
}

// last lets answers leave something out for longer than close_delay, which would hide it.
func (s *storm) last() {
	s.t.Helper()
	for _, kind := range []string{"filtered", "default deny"} {
		fault, err := host.NewFault(s.random, kind, host.RouteServices, 1_000_000)
		s.must(err)
		s.answered()
		s.faulty.Arm(fault)
		time.Sleep(stormDelay + 2*time.Second)
		s.faulty.Drop(fault)
		s.answered()
	}
}

// lookAtGoing stops expecting what was deregistered for close_delay to be open.
func (s *storm) lookAtGoing() {
	for port, since := range s.going {
		if time.Since(since) >= stormDelay-200*time.Millisecond {
			s.sentry.expect("", port)
		}
	}
}

// weight is what hostagent takes of the host.
type weight struct{ files, kilobytes int }

func (s *storm) weigh() weight {
	s.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", s.agent.PID())
	files, err := os.ReadDir(proc + "fd")
	s.must(err)
	status, err := os.ReadFile(proc + "status")
	s.must(err)
	resident := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if resident == nil {
		s.t.Fatalf("no VmRSS in\n%s", status)
	}
	kilobytes, err := strconv.Atoi(string(resident[1]))
	s.must(err)
	return weight{len(files), kilobytes}
}

// end waits until everything is as it should be, and looks at what is left of the storm.
func (s *storm) end(before weight) {
	s.t.Helper()
	met := map[string]int{}
	for _, fault := range s.armed {
		s.wait(fault)
		met[fault.Kind]++
	}
	for _, kind := range append(host.FaultKinds(host.RouteServices), host.Forgetful) {
		if met[kind] == 0 {
			s.t.Errorf("no fault %q has happened", kind)
		}
	}
	s.must(s.consul.API().Agent().ServiceDeregister(s.guest))
	s.going[s.port] = time.Now()
	for port, since := range s.going {
		time.Sleep(time.Until(since.Add(stormDelay - 200*time.Millisecond)))
		s.lookAtGoing()
		s.eventually(port, host.Dropped, 15*time.Second)
		s.sentry.expect(host.Dropped, port)
	}
	s.checkTurns("alive", "passing", "guard mode")
	s.until("hostagent has let go of what it held", func() error {
		if after := s.weigh(); after.files > before.files+10+2*s.reloads || after.kilobytes > before.kilobytes+40_000 {
			return fmt.Errorf("it has %d files open and %d kB, before the faults %d and %d kB",
				after.files, after.kilobytes, before.files, before.kilobytes)
		}
		return nil
	})
	s.judgeLog()
	after := s.weigh()
	s.t.Logf("%s; %d files and %d kB, before %d and %d kB; faults: %v", s.sentry.stop(s.t), after.files, after.kilobytes,
		before.files, before.kilobytes, slices.Sorted(maps.Keys(met)))
}

// judgeLog wants no trouble told more often than once a minute.
func (s *storm) judgeLog() {
	s.t.Helper()
	log := s.agent.Log()
	if strings.ContainsAny(log, "\x1b\x00") || !utf8.ValidString(log) {
		s.t.Errorf("the log holds raw control characters")
	}
	told := map[string]int{}
	for line := range strings.Lines(log) {
		if at := strings.Index(line, `msg="step failed`); at >= 0 {
			told[strings.TrimSpace(line[at:])]++
		}
	}
	sum := 0
	for line, times := range told {
		if sum += times; times > 3 { // the storm takes a minute or two
			s.t.Errorf("told %d times: %s", times, line)
		}
	}
	if sum == 0 || sum > 75 { // five steps, eight kinds of failure
		s.t.Errorf("%d lines of trouble", sum)
	}
	s.t.Logf("%d lines of trouble, %d bytes of log", sum, len(log))
}
