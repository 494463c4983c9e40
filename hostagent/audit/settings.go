// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"strings"
)

// setting is one setting of the agent and where it is known from.
type setting[T any] struct {
	value T
	known bool
	// found is the evidence: `the agent runs with verify_outgoing = false`, `/etc/consul.d/tls.hcl:3: verify_outgoing = true`.
	found string
	needs string // where it is not known
}

// settingOf looks a setting up: what the running agent tells counts before what its files say, and where the files were read
// and none sets it, Consul's default does. keys are the setting's names in files, of which the first that is set counts
// (tls.internal_rpc.verify_outgoing before tls.defaults.verify_outgoing); the first is shown.
func settingOf[T any](in *Input, running *T, byDefault T, keys ...string) setting[T] {
	name := keys[0]
	if in.Running.Known && running != nil {
		return setting[T]{value: *running, known: true, found: fmt.Sprintf("the agent runs with %s = %s", name, literal(*running))}
	}
	if s, ok := onDisk[T](in, byDefault, keys...); ok {
		return s
	}
	s := setting[T]{found: name + ": the agent does not tell, and its files were not read", needs: giveConfig}
	if !in.Running.Known {
		s.found, s.needs = name+": "+in.Running.Reason, in.Running.Needs
	}
	return s
}

// onDisk looks a setting up in the agent's files alone; false where they were not read.
func onDisk[T any](in *Input, byDefault T, keys ...string) (setting[T], bool) {
	if !in.Disk.Known {
		return setting[T]{}, false
	}
	for _, key := range keys {
		found, ok := in.Disk.Value.Settings.Lookup(key)
		if !ok {
			continue
		}
		if value, ok := found.Value.(T); ok {
			text := fmt.Sprintf("%s:%d: %s = %s", found.File, found.Line, key, literal(value))
			return setting[T]{value: value, known: true, found: text}, true
		}
	}
	text := fmt.Sprintf("no file sets %s; Consul's default is %s", keys[0], literal(byDefault))
	return setting[T]{value: byDefault, known: true, found: text}, true
}

// unknown is the row of an item that hangs on a setting which is not known.
func (s setting[T]) unknown() Row {
	return Row{Status: Unknown, Found: []string{s.found}, Needs: s.needs}
}

func literal(value any) string {
	if text, ok := value.(string); ok {
		return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
	}
	return fmt.Sprint(value)
}
