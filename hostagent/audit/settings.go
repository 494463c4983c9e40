// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"slices"
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
	if flag := in.flagOver(keys...); flag != "" && in.Disk.Known {
		return setting[T]{found: name + ": " + startedWith(flag), needs: byAgent}
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

// flagOver names a flag of the agent's command line that decides one of keys whatever files say, or -dev where it does and no
// file sets the key; "" where there is none. Values of flags are not kept.
func (in *Input) flagOver(keys ...string) string {
	given := in.Process.Value.Flags
	if slices.Contains(given, flagAny) {
		return flagAny
	}
	for _, key := range keys {
		if flag := flagOf(key); flag != "" && slices.Contains(given, flag) {
			return flag
		}
	}
	if !slices.Contains(given, flagDev) {
		return ""
	}
	for _, key := range keys {
		if in.Disk.Known {
			if _, set := in.Disk.Value.Settings.Lookup(key); set {
				return ""
			}
		}
	}
	if slices.ContainsFunc(keys, func(key string) bool { return slices.Contains(devSets[:], key) }) {
		return flagDev
	}
	return ""
}

// startedWith is why a setting that a flag decides is not known.
func startedWith(flag string) string {
	if flag == flagDev {
		return "the agent was started with -dev, and no file says otherwise"
	}
	return "the agent was started with -" + flag + ", which stands over its files and is not read"
}

const (
	flagAny = "hcl" // takes a piece of configuration, and so decides anything
	flagDev = "dev"
)

// devSets are the settings of -dev, which files stand over (DevSource in Consul's agent/config/default.go).
var devSets = [...]string{"server", "disable_keyring_file", "connect.enabled", "ports.grpc"}

// flagOf is the flag that stands over a setting in files, "" where there is none (agent/config/flags.go).
func flagOf(key string) string {
	switch key {
	case "server", "datacenter", "domain", "encrypt":
		return key
	case "client_addr":
		return "client"
	case "node_name":
		return "node"
	case "data_dir", "disable_keyring_file":
		return strings.ReplaceAll(key, "_", "-")
	case "ports.server", "ports.http", "ports.https", "ports.grpc", "ports.grpc_tls", "ports.dns", "ports.serf_lan", "ports.serf_wan":
		return strings.ReplaceAll(strings.TrimPrefix(key, "ports."), "_", "-") + "-port"
	}
	return ""
}

// isServer tells whether the agent is a server, as far as is known: as it says itself, or by its flags and files.
func isServer(in *Input) bool {
	if in.Running.Known {
		return in.Running.Value.Server
	}
	flag := in.flagOver("server")
	if flag != "" && flag != flagAny {
		return true
	}
	server, _ := onDisk(in, false, "server")
	return server.value
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
