// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// gossipKeyBytes is the length of the keys that consul keygen makes; Consul takes 16 and 24 as well.
const gossipKeyBytes = 32

const needsEveryNode = "an answer of every node: consul keyring -list tells which of them fail"

func gossipKey(in *Input) Row {
	if g := gossipOf(in); g.known && !g.encrypted {
		return Row{Status: NotApplicable, Found: []string{gossipOff}}
	}
	if !in.Keyrings.Known {
		return writtenKey(in)
	}
	if len(in.Keyrings.Value) == 0 {
		return Row{Status: Unknown, Found: []string{"the agent tells of no keyring"}, Needs: needsKeyring}
	}
	j := keyringJudge{row: Row{Status: Pass}}
	for _, ring := range in.Keyrings.Value {
		j.ring(ring)
	}
	j.across(in.Keyrings.Value)
	return j.row
}

// writtenKey judges the key of the agent's files, of which only its length is looked at; whether others use the same is not
// to be seen there.
func writtenKey(in *Input) Row {
	row := in.Keyrings.unknown("the keys of the datacenter's nodes")
	switch {
	case row.Needs != "":
	case in.Keyrings.Reason == "":
		row.Needs = needsKeyring
	default:
		row.Needs = needsEveryNode
	}
	if !in.Disk.Known {
		return row
	}
	set, ok := in.Disk.Value.Settings.Lookup("encrypt")
	text, isText := set.Value.(string)
	if !ok || !isText || text == "" {
		return row
	}
	where := fmt.Sprintf("%s:%d: encrypt", set.File, set.Line)
	key, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil:
		return Row{Status: Fail, Found: []string{where + " is no key: it is not base64"}, Remedy: weakKeyRemedy}
	case len(key) != gossipKeyBytes:
		return Row{Status: Fail, Found: []string{fmt.Sprintf("%s is a key of %s", where, plural(len(key), "byte"))}, Remedy: weakKeyRemedy}
	}
	row.Found = append([]string{fmt.Sprintf("%s is a key of %d bytes", where, len(key))}, row.Found...)
	return row
}

const (
	weakKeyRemedy = "make a key of 32 bytes with consul keygen and rotate to it: consul keyring -install NEW, " +
		"when consul keyring -list shows it on all nodes -use NEW, then -remove OLD; then write it into encrypt of every agent's files"
	spreadRemedy = "run consul keyring -install once more with the key that is missing on some nodes, and wait for consul keyring -list " +
		"to show it on all nodes before -use and -remove"
	useRemedy = "where the key that no node sends with is the new one: consul keyring -use NEW, then -remove OLD; where it is the old one: " +
		"consul keyring -remove OLD"
	splitRemedy = "run consul keyring -use once more with the new key, until consul keyring -list-primary shows it alone; " +
		"remove the old one after that"
	ringsRemedy = "install and use the same key in every datacenter (consul keyring -install, -use and -remove reach all that are joined), " +
		"unless they are kept apart on purpose"
)

// keyringJudge gathers a row over several rings.
type keyringJudge struct{ row Row }

// add notes a sentence; the remedy is that of the first of the worst.
func (j *keyringJudge) add(status Status, remedy, format string, args ...any) {
	if status.Worse(j.row.Status) {
		j.row.Status, j.row.Remedy = status, remedy
	}
	j.row.Found = append(j.row.Found, fmt.Sprintf(format, args...))
}

func ringName(ring consul.Keyring) string {
	if ring.WAN {
		return "between datacenters"
	}
	return fmt.Sprintf("in datacenter %q", ring.Datacenter)
}

func (j *keyringJudge) ring(ring consul.Keyring) {
	name := ringName(ring)
	switch {
	case ring.Problem != "":
		j.add(Unknown, "", "%s: not all nodes answered: %s", name, ring.Problem)
	case len(ring.Keys) == 0:
		j.add(Unknown, "", "%s: no node told a key", name)
	}
	if ring.Problem != "" || len(ring.Keys) == 0 {
		j.row.Needs = needsEveryNode
	}
	if len(ring.Keys) == 0 {
		return
	}
	for _, key := range ring.Keys {
		switch key.Bytes {
		case gossipKeyBytes:
		case 0:
			j.add(Unknown, "", "%s: the length of a key is not known", name)
			j.row.Needs = "keys in base64, as Consul shows them"
		default:
			j.add(Fail, weakKeyRemedy, "%s: a key of %s", name, plural(key.Bytes, "byte"))
		}
	}
	if len(ring.Keys) == 1 {
		j.single(name, ring)
		return
	}
	j.rotation(name, ring)
}

func (j *keyringJudge) single(name string, ring consul.Keyring) {
	if key := ring.Keys[0]; key.Nodes < ring.Nodes {
		j.add(Warn, spreadRemedy, "%s: %d of %s have the key", name, key.Nodes, plural(ring.Nodes, "node"))
	} else if key.Bytes == gossipKeyBytes && ring.Problem == "" {
		j.add(Pass, "", "%s: one key of %d bytes on all nodes", name, gossipKeyBytes)
	}
}

// rotation tells how far a rotation has come: a key is installed on all nodes, then used by all, and the old one removed.
func (j *keyringJudge) rotation(name string, ring consul.Keyring) {
	senders, partial := primaries(ring), slices.ContainsFunc(ring.Keys, func(k consul.GossipKey) bool { return k.Nodes < ring.Nodes })
	switch {
	case len(senders) > 1:
		j.add(Fail, splitRemedy, "%s: nodes send with %s: a rotation is under way, and the new key is not in use on all nodes",
			name, plural(len(senders), "different key"))
	case partial:
		fewest := slices.MinFunc(ring.Keys, func(a, b consul.GossipKey) int { return a.Nodes - b.Nodes })
		j.add(Warn, spreadRemedy, "%s: %d keys, and one is on %d of %s only: a rotation is under way, at its first step (install) "+
			"or last (remove)", name, len(ring.Keys), fewest.Nodes, plural(ring.Nodes, "node"))
	case len(senders) == 0: // PrimaryKeys came with Consul 1.9
		j.add(Warn, useRemedy, "%s: %d keys on all nodes: a rotation is under way; this version does not tell with which of them nodes send",
			name, len(ring.Keys))
	default:
		j.add(Warn, useRemedy, "%s: %d keys on all nodes, which send with one of them: a rotation is under way, before its second step (use) "+
			"or before its last (remove)", name, len(ring.Keys))
	}
}

// primaries returns the keys with which nodes of a ring send; none where its version does not tell.
func primaries(ring consul.Keyring) []consul.TokenHash {
	var all []consul.TokenHash
	for _, key := range ring.Keys {
		if key.Primary > 0 || len(ring.Keys) == 1 {
			all = append(all, key.Hash)
		}
	}
	return all
}

// across compares the rings that send with one key each; one with several says so itself.
func (j *keyringJudge) across(rings []consul.Keyring) {
	first := -1
	for i, ring := range rings {
		senders := primaries(ring)
		if len(senders) != 1 || senders[0] == (consul.TokenHash{}) {
			continue
		}
		if first < 0 {
			first = i
			continue
		}
		if senders[0] != primaries(rings[first])[0] {
			j.add(Warn, ringsRemedy, "gossip %s and gossip %s use different keys", ringName(rings[first]), ringName(ring))
		}
	}
}
