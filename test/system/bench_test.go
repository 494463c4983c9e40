// SPDX-License-Identifier: MPL-2.0

package system

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/systemd"
)

const (
	// secondsEnv says for how many seconds BenchmarkSystem looks at a host on which nothing happens.
	secondsEnv    = "BENCH_SYSTEM_SECONDS"
	benchSeconds  = 600
	benchServices = 50
	settling      = 15 * time.Second // longer than what hostagent does by turns when nothing happens
)

// BenchmarkSystem prints what hostagent costs as an installed service (make bench-system), on a host with 50 services whose
// sidecars are registered with a real Consul. All listeners are there; no traffic runs over them. A booted machine does not see
// the root of the cgroups, so that listeners are found by looking every poll_interval only.
func BenchmarkSystem(b *testing.B) {
	seconds := benchSeconds
	if text := os.Getenv(secondsEnv); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 1 {
			b.Fatalf("%s=%q: want a number of seconds", secondsEnv, text)
		}
	}
	p := newProduct(b, false)
	var applications, sidecars []string
	for i := range benchServices {
		applications = append(applications, fmt.Sprintf("127.0.0.1:%d", 8000+i))
		sidecars = append(sidecars, fmt.Sprintf("0.0.0.0:%d", p.register(fmt.Sprintf("service-%02d", i), 8000+i, 0)))
	}
	p.app("applications", applications...)
	p.app("sidecars", sidecars...)

	began := time.Now()
	p.install(now)
	installed := time.Since(began)
	passed := p.logged("guard mode would open and close").Sub(began)
	p.guard()
	p.checkTurns("Firewall", "passing", "Guarded: 21000-21255")
	p.until("every service has a check", func() error {
		if n := len(p.checks()); n != benchServices+3 {
			return fmt.Errorf("%d checks", n)
		}
		return nil
	})

	fmt.Printf("\nhostagent as an installed service, %d services with sidecars, guard mode\n", benchServices)
	for _, unit := range systemd.Units("/usr/bin/hostagent") {
		_, exposure, _ := strings.Cut(lastLine(p.Run("systemd-analyze", "security", "--no-pager", unit.Name)), ": ")
		fmt.Printf("  exposure of %-28s %s\n", unit.Name, exposure)
	}
	p.printSizes()
	fmt.Printf("  apt-get install: %.1f s; from its start to the first whole pass: %.1f s\n", installed.Seconds(), passed.Seconds())
	time.Sleep(settling)
	p.printUse(time.Duration(seconds) * time.Second)
}

// logged returns when hostagent first logged a message with a text.
func (p *product) logged(text string) time.Time {
	p.t.Helper()
	out := p.Wait(settleWithin, "bash", "-o", "pipefail", "-c", "journalctl -b -u hostagent -o json | grep -m1 -F '"+text+"'")
	var entry struct {
		Microseconds int64 `json:"__REALTIME_TIMESTAMP,string"`
	}
	if err := json.Unmarshal([]byte(out), &entry); err != nil {
		p.t.Fatal(err)
	}
	return time.UnixMicro(entry.Microseconds)
}

// printSizes prints the sizes of the program and of the packages.
func (p *product) printSizes() {
	p.t.Helper()
	packages, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), now, "*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, path := range append([]string{p.Path("/usr/bin/hostagent")}, packages...) {
		info, err := os.Stat(path)
		if err != nil {
			p.t.Fatal(err)
		}
		fmt.Printf("  %-40s %6.2f MB\n", filepath.Base(path), float64(info.Size())/1e6)
	}
}

// use is what the processes of a unit have used: CPU time since the unit started, and the resident memory of its main process
// now and at its most, in MB of 1,000,000 bytes.
type use struct {
	cpu           time.Duration
	resident, top float64
}

func (p *product) use(unit string) (u use) {
	p.t.Helper()
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(p.Run("systemctl", "show", "-P", "CPUUsageNSec", unit)), 10, 64)
	if err != nil {
		p.t.Fatalf("the CPU time of %s: %v", unit, err)
	}
	u.cpu = time.Duration(nanoseconds)
	for line := range strings.Lines(p.Shell(`cat /proc/$(systemctl show -P MainPID ` + unit + `)/status`)) {
		name, value, _ := strings.Cut(line, ":")
		kibibytes, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch name {
		case "VmRSS":
			u.resident = kibibytes * 1024 / 1e6
		case "VmHWM":
			u.top = kibibytes * 1024 / 1e6
		}
	}
	return u
}

// printUse prints what hostagent and Consul use while nothing happens for a while.
func (p *product) printUse(while time.Duration) {
	p.t.Helper()
	units := []string{"hostagent", "consul"}
	var before []use
	for _, unit := range units {
		before = append(before, p.use(unit))
	}
	began := time.Now()
	time.Sleep(while)
	fmt.Printf("  over %.0f s in which nothing happens:\n", while.Seconds())
	for i, unit := range units {
		after, took := p.use(unit), time.Since(began)
		cpu := after.cpu - before[i].cpu
		fmt.Printf("    %-10s %6.2f ms of CPU a second (%.2f %% of one), resident %.1f MB (at most %.1f MB)\n", unit,
			cpu.Seconds()*1000/took.Seconds(), 100*cpu.Seconds()/took.Seconds(), after.resident, after.top)
	}
}

// lastLine is the last line of a text that is not empty.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
