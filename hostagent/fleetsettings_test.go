// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestRefusedSettingsAreTold by the life check, the log and the status, at once and until they are mended.
func TestRefusedSettingsAreTold(t *testing.T) {
	const trouble = "\n\nThe settings in Consul's KV are not those in use; the last good ones stand"
	for counts, told := range map[bool]string{false: trouble + ":\n  kv:hostagent/all.hcl:3: no such key\n", true: trouble + ".\n"} {
		h := newFakeHost()
		parts := h.parts(ModeGuard)
		var refused error
		parts.Settings, parts.SettingsFrom = func() error { return refused }, "hostagent/"
		parts.Policy.CountsOnly = counts
		h.runAgent(t, parts, func(a *Agent, reload chan<- Parts) {
			pass(7 * time.Second) // not together with a look that is due anyway
			before := h.report.Life
			handOver()
			refused = errors.New("kv:hostagent/all.hcl:3: no such key")
			pass(time.Second)
			want(t, "the life check", "warning: "+before.Output+told, string(h.report.Life.Status)+": "+h.report.Life.Output)
			if s := a.Status().Settings; s.Prefix != "hostagent/" || s.Error != refused.Error() {
				t.Errorf("the status says %+v", s)
			}
			if !strings.Contains(h.log.String(), "step=settings") {
				t.Errorf("log:\n%s", h.log.String())
			}
			handOver()
			refused = nil
			pass(time.Second)
			want(t, "the life check, mended", "passing: "+before.Output, string(h.report.Life.Status)+": "+h.report.Life.Output)
			want(t, "the status, mended", "", a.Status().Settings.Error)

			handOver()
			refused = errors.New("again")
			pass(time.Second)
			parts.Settings, parts.SettingsFrom = nil, ""
			reload <- parts
			pass(0)
			want(t, "the life check without such settings", "passing: "+before.Output, string(h.report.Life.Status)+": "+h.report.Life.Output)
			if s := a.Status().Settings; s != (StatusSettings{}) {
				t.Errorf("the status without such settings says %+v", s)
			}
		})
	}
}
