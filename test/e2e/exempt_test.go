// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// TestExemptIsLeftAlone: an exposed application that the operator means to be reachable stays so under quarantine, Consul's
// check of it passes and says why, and without the exemption the port closes.
func TestExemptIsLeftAlone(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("shop", 8080, "[::]:8080")
	dir := filepath.Join(w.Dir, "exempt.d")
	w.must(os.Mkdir(dir, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "10.hcl"), []byte("mode = \"guard\"\n"+quick+closing("8080", `"shop"`)), 0o600))
	write := func(last string) {
		t.Helper()
		w.must(os.WriteFile(filepath.Join(dir, "20.hcl"), []byte(`
exempt {
  finding    = "exposed-listener"
  service    = "shop"
  executable = "`+program(w, host.AppProgram)+`"
  reason     = "scraped by Prometheus"
  expires    = "`+last+`"
}
`), 0o600))
	}
	write("2999-12-31")
	agent := w.start("", "--config", dir)
	w.guarded()
	w.checkTurns("service:shop", "passing", "exposed-listener (exempt)")
	w.checkTurns("service:shop", "passing", "exempt: scraped by Prometheus (until 2999-12-31)")
	w.reaches(8080, host.Open)
	w.meshWorks("shop", sidecar)
	if out := w.hostagent(0, "scan", "--config", dir); !strings.Contains(out, "info exposed-listener (exempt)") {
		t.Errorf("scan says\n%s", out)
	}

	write("2001-02-28")
	w.must(agent.Signal(syscall.SIGHUP))
	w.must(agent.WaitLog(w.ctx, `msg="exemption has ended" exemption="exposed-listener, service \"shop\"`))
	w.eventually(8080, host.Dropped, 5*time.Second)
	w.checkTurns("service:shop", "passing", "exposed-listener (mitigated)")
	w.checkTurns("service:shop", "passing", "its exemption ended on 2001-02-28")

	write("2999-12-31")
	w.must(agent.Signal(syscall.SIGHUP))
	w.eventually(8080, host.Open, 5*time.Second)
	w.meshWorks("shop", sidecar)
}

// program is the path of a program that the tests start, as the kernel calls it.
func program(w *world, name host.Program) string {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, name)
	w.must(err)
	path, err := filepath.EvalSymlinks(binary)
	w.must(err)
	return path
}
