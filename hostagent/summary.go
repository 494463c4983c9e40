// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// summaryReason is the length in runes to which summary cuts what went wrong.
const summaryReason = 120

// summary says in one line what the agent does, for "systemctl status": "guarding 21000-21255: 12 sidecar ports open,
// 2 warnings". It holds no times and no counters, so that it changes only with what it tells.
func (v *view) summary() string {
	if v.passes == 0 {
		return "starting in " + string(v.mode) + " mode"
	}
	waiting := ""
	if v.consulErr != nil {
		waiting = fmt.Sprintf("waiting for the Consul agent at %s: %s", catalog.Clean(v.address), consulReason(v.consulErr))
	}
	if waiting != "" && v.answers == 0 && v.holds.guard.Len() == 0 && v.holds.open.Len() == 0 {
		return waiting
	}
	text := v.doing()
	if v.applyErr != nil {
		text += "; the firewall fails: " + reason(v.applyErr)
	}
	if waiting != "" {
		text += "; " + waiting
	}
	return text
}

// doing says what the agent guards or observes.
func (v *view) doing() string {
	warnings := 0
	for i := range v.result.Findings {
		if f := &v.result.Findings[i]; f.State == Open && f.Severity > catalog.Info {
			warnings++
		}
	}
	doing, ports, is := "guarding "+v.holds.guard.String(), v.holds.open.Len(), "open"
	switch {
	case v.mode != ModeGuard:
		doing, ports, is = "observing "+v.result.Range.String(), v.result.Rules.Open.Len(), "that guard mode would open"
	case v.holds.guard.Len() == 0:
		doing = "guarding nothing before a second whole answer of Consul"
	}
	text := fmt.Sprintf("%s: %s %s, %s", catalog.CleanTo(doing, summaryReason), count(ports, "sidecar port"), is, count(warnings, "warning"))
	if quarantined := len(v.result.Quarantined); quarantined > 0 && v.mode == ModeGuard {
		text += fmt.Sprintf(", %d in quarantine", quarantined)
	}
	return text
}

// consulReason says why the agent's answer is waited for, in few words where the rest stands beside it.
func consulReason(err error) string {
	if broken, ok := errors.AsType[*net.OpError](err); ok && broken.Op == "dial" {
		if number, ok := errors.AsType[syscall.Errno](err); ok {
			return number.Error()
		}
	}
	if consul.KindOf(err) == consul.KindTimeout {
		return "no answer in time"
	}
	return reason(err)
}

// reason is an error in one short line.
func reason(err error) string {
	return catalog.CleanTo(strings.Join(strings.Fields(err.Error()), " "), summaryReason)
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
