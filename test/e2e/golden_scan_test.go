// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// allListeners is what this test reads of "hostagent scan --all --format json". A device stands behind the address, or has
// a key of its own.
type allListeners struct {
	Listeners *[]struct {
		Listener struct {
			Protocol string `json:"protocol"`
			Address  string `json:"address"`
			Device   string `json:"device"`
			Port     uint16 `json:"port"`
			UID      uint32 `json:"uid"`
			Space    uint64 `json:"network_namespace"`
		} `json:"listener"`
		Processes []struct {
			PID int32 `json:"pid"`
		} `json:"processes"`
	} `json:"listeners"`
}

// scanAll lists what the built program sees in the host's own network namespace: ss looks into no other.
func (w *world) scanAll() ([]string, error) {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	cmd := w.Command(w.ctx, binary, "scan", "--all", "--format", "json")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: it found something
		return nil, fmt.Errorf("hostagent scan --all --format json: %w\n%s", err, complaint.String())
	}
	var document allListeners
	if err := json.Unmarshal(out, &document); err != nil {
		return nil, fmt.Errorf("hostagent scan --all --format json: %w", err)
	}
	if document.Listeners == nil {
		return nil, errors.New(`hostagent scan --all --format json has no key "listeners"`)
	}
	var all []string
	for _, l := range *document.Listeners {
		if l.Listener.Space != 0 {
			continue
		}
		address, device, _ := strings.Cut(l.Listener.Address, "%")
		if device == "" {
			device = l.Listener.Device
		}
		var pids []int32
		for _, p := range l.Processes {
			pids = append(pids, p.PID)
		}
		all = append(all, seen(l.Listener.Protocol, address, device, l.Listener.Port, l.Listener.UID, pids))
	}
	slices.Sort(all)
	return all, nil
}

// withoutDualStack writes every address as the kernel does.
func withoutDualStack(lines []string) []string {
	for i, line := range lines {
		lines[i] = strings.Replace(line, " "+dualStack, " ::", 1)
	}
	slices.Sort(lines)
	return lines
}

// TestGoldenScan: what scan lists of a host is what ss lists: every address with its device, every port, user and process.
func TestGoldenScan(t *testing.T) {
	w := newCrowd(t)
	w.agrees("scan", w.scanAll, withoutDualStack)
}
