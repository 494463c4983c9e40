// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func gossipJudges() []judge {
	return []judge{
		{catalog.GossipEncryption, gossipEncryption},
		{catalog.GossipVerify, gossipVerify},
		{catalog.GossipKey, gossipKey},
		{catalog.RestartPending, restartPending},
	}
}

// gossip is whether gossip is encrypted.
type gossip struct {
	encrypted, known bool
	found            []string
	needs            string
}

// byAgent is what would show settings that files do not tell.
const byAgent = "the running agent: hostagent's token with agent:read on this node"

const gossipOff = "gossip is not encrypted: see gossip-encryption"

func gossipOf(in *Input) gossip {
	if in.Running.Known && in.Running.Value.GossipEncrypted != nil {
		return runningGossip(in)
	}
	if in.Disk.Known {
		return writtenGossip(in)
	}
	g := gossip{found: []string{"the agent does not tell whether gossip is encrypted"}, needs: giveConfig}
	if !in.Running.Known {
		row := in.Running.unknown("what the agent runs with")
		g.found, g.needs = row.Found, row.Needs
	}
	return g
}

func runningGossip(in *Input) gossip {
	lan, wan := *in.Running.Value.GossipEncrypted, in.Running.Value.GossipEncryptedWAN
	g := gossip{known: true, encrypted: lan && (wan == nil || *wan)}
	g.found = append(g.found, "the agent's gossip within the datacenter "+isEncrypted(lan))
	if wan != nil {
		g.found = append(g.found, "its gossip between datacenters "+isEncrypted(*wan))
	}
	return g
}

func isEncrypted(is bool) string {
	if is {
		return "is encrypted"
	}
	return "is not encrypted"
}

// writtenGossip tells what an agent with these files does: Consul writes the key of its first start into its data directory,
// and from then on needs no encrypt (setupBaseKeyrings).
func writtenGossip(in *Input) gossip {
	settings := in.Disk.Value.Settings
	switch flag := in.flagOver("encrypt", "disable_keyring_file"); flag {
	case "":
	case flagOf("encrypt"):
		return gossip{known: true, encrypted: true, found: []string{"the agent was started with -encrypt"}}
	default:
		if set, ok := settings.Lookup("encrypt"); !ok || set.Value == "" || flag == flagAny {
			return gossip{found: []string{"whether gossip is encrypted: " + startedWith(flag)}, needs: byAgent}
		}
	}
	if set, ok := settings.Lookup("encrypt"); ok && set.Value != "" {
		return gossip{known: true, encrypted: true, found: []string{fmt.Sprintf("%s:%d sets encrypt", set.File, set.Line)}}
	}
	if auto, ok := settings.Lookup("auto_config.enabled"); ok && auto.Value == true {
		return gossip{found: []string{fmt.Sprintf("%s:%d: auto_config.enabled = true: the agent gets its gossip key from the servers",
			auto.File, auto.Line)}, needs: byAgent}
	}
	if off, ok := settings.Lookup("disable_keyring_file"); ok && off.Value == true {
		return gossip{known: true, found: []string{
			fmt.Sprintf("no file sets encrypt, and %s:%d turns the keyring's file off", off.File, off.Line)}}
	}
	if !in.DataFiles.Known {
		row := in.DataFiles.unknown("no file sets encrypt, and the agent's data directory may hold a key (serf/local.keyring)")
		return gossip{found: row.Found, needs: row.Needs}
	}
	for _, file := range in.DataFiles.Value {
		if strings.HasSuffix(file.Path, "/serf/local.keyring") {
			return gossip{known: true, encrypted: true, found: []string{"no file sets encrypt, but " + file.Path + " holds a key"}}
		}
	}
	for i, file := range in.DataFiles.Value {
		// What is in a folder that lets nobody else in is nobody's business, and need not have been looked at.
		shut := file.Mode.IsDir() && file.Mode.Perm()&0o011 == 0 || file.Problem != ""
		if shut && (i == 0 || strings.HasSuffix(file.Path, "/serf")) {
			return gossip{found: []string{
				"no file sets encrypt, and whether " + file.Path + " holds a key (serf/local.keyring) was not looked at"},
				needs: byAgent}
		}
	}
	return gossip{known: true, found: []string{"no file sets encrypt, and the agent's data directory holds no serf/local.keyring"}}
}

func (g gossip) unknown() Row { return Row{Status: Unknown, Found: g.found, Needs: g.needs} }

func gossipEncryption(in *Input) Row {
	g := gossipOf(in)
	switch {
	case !g.known:
		return g.unknown()
	case g.encrypted:
		return Row{Status: Pass, Found: g.found}
	}
	return Row{Status: Fail, Found: g.found}
}

// What memberlist does with the two flags once it has a key: outgoing decides whether the agent encrypts what it sends, and
// incoming whether it drops what comes in plain. Hence the order of Consul's rolling enablement.
const (
	gossipStep1 = "step 1 of 3 of a rolling enablement: the agent has a key, but sends plain gossip and takes it"
	gossipStep2 = "step 2 of 3 of a rolling enablement: the agent sends encrypted gossip, but still takes plain gossip " +
		"from anybody"
	gossipCut = "no step of a rolling enablement: the agent drops plain gossip, and sends it; agents that verify drop its own, " +
		"and it cannot hear those that do not encrypt yet"

	gossipTo2 = "step 2 is next: once every agent has the key and runs with both flags false, set encrypt_verify_outgoing = true " +
		"on every agent and restart them one after another; only when all have restarted take step 3, encrypt_verify_incoming = true"
	gossipTo3 = "step 3 is next: once every agent runs with encrypt_verify_outgoing = true, set encrypt_verify_incoming = true " +
		"on every agent and restart them one after another"
	gossipUncut = "set encrypt_verify_outgoing = true if every other agent has it already, or else encrypt_verify_incoming = false, " +
		"and restart the agent; outgoing comes before incoming, with a restart of all agents between them"
)

func gossipVerify(in *Input) Row {
	g := gossipOf(in)
	switch {
	case !g.known:
		return g.unknown()
	case !g.encrypted:
		return Row{Status: NotApplicable, Found: []string{gossipOff}}
	}
	incoming := settingOf(in, in.Running.Value.GossipVerifyIncoming, true, "encrypt_verify_incoming")
	outgoing := settingOf(in, in.Running.Value.GossipVerifyOutgoing, true, "encrypt_verify_outgoing")
	if !incoming.known {
		return incoming.unknown()
	}
	if !outgoing.known {
		return outgoing.unknown()
	}
	row := Row{Status: Fail, Found: []string{incoming.found, outgoing.found}}
	switch {
	case incoming.value && outgoing.value:
		row.Status = Pass
	case incoming.value:
		row.Found, row.Remedy = append(row.Found, gossipCut), gossipUncut
	case outgoing.value:
		row.Found, row.Remedy = append(row.Found, gossipStep2), gossipTo3
	default:
		row.Found, row.Remedy = append(row.Found, gossipStep1), gossipTo2
	}
	return row.doubted(in, "encrypt_verify_incoming", "encrypt_verify_outgoing")
}
