// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	flagsStandOver = "flags on the agent's command line stand over its files, and can be why"
	reloadRemedy   = "run consul reload: it takes up certificates and the settings of tls, for connections that are made from then on"
	keyRemedy      = "write the key that the datacenter uses into encrypt, or rotate to the one that stands there: " +
		"consul keyring -install, -use, -remove"
)

// comparison is one setting, as the agent tells it and under its names in files, of which the first that is set counts.
type comparison struct {
	runs any // nil: the agent does not tell
	keys []string
	// reloads tells that a reload takes it up: so it is with tls (Configurator.Update in reloadConfigInternal, in 1.8 as
	// in 1.21, whose HTTPS API asks for client certificates right after it).
	reloads bool
}

func toldValue[T any](value *T) any {
	if value == nil {
		return nil
	}
	return *value
}

// comparisons are the settings that count for the mesh's guarantees.
func comparisons(r *consul.Running) []comparison {
	all := []comparison{
		{runs: r.Server, keys: []string{"server"}},
		{runs: r.Datacenter, keys: []string{"datacenter"}},
		{runs: r.Node, keys: []string{"node_name"}},
		{runs: toldValue(r.ACLsEnabled), keys: []string{"acl.enabled"}},
		{runs: toldValue(r.ACLDefaultPolicy), keys: []string{"acl.default_policy"}},
		{runs: toldValue(r.ACLTokenPersistence), keys: []string{"acl.enable_token_persistence"}},
		{runs: toldValue(r.ConnectEnabled), keys: []string{"connect.enabled"}},
		{runs: toldValue(r.DefaultIntentionPolicy), keys: []string{"default_intention_policy"}},
	}
	// The servers send gossip and TLS settings to an agent that has auto_config, and they stand over its files.
	if r.AutoConfig == nil || !*r.AutoConfig {
		all = append(all,
			comparison{runs: toldValue(r.GossipVerifyIncoming), keys: []string{"encrypt_verify_incoming"}},
			comparison{runs: toldValue(r.GossipVerifyOutgoing), keys: []string{"encrypt_verify_outgoing"}})
		all = append(all, tlsComparisons(r)...)
	}
	return append(all, portComparisons(r)...)
}

func tlsComparisons(r *consul.Running) []comparison {
	in := func(protocol, key string, runs any) comparison {
		return comparison{runs: runs, keys: []string{"tls." + protocol + "." + key, "tls.defaults." + key}, reloads: true}
	}
	outgoing := in("internal_rpc", "verify_outgoing", toldValue(r.RPC.VerifyOutgoing))
	if r.RPC.VerifyServerHostname != nil && *r.RPC.VerifyServerHostname {
		outgoing.runs = nil // that one implies verify_outgoing
	}
	all := []comparison{
		in("internal_rpc", "verify_incoming", toldValue(r.RPC.VerifyIncoming)), outgoing,
		in("internal_rpc", "verify_server_hostname", toldValue(r.RPC.VerifyServerHostname)),
	}
	protocols := []struct {
		name string
		tls  consul.TLS
	}{{"internal_rpc", r.RPC}, {"https", r.HTTPS}, {"grpc", r.GRPC}}
	if !r.Since("1.12.0") { // one set of settings for all three
		protocols = protocols[:1]
	}
	for _, p := range protocols {
		if p.name != "internal_rpc" {
			all = append(all, in(p.name, "verify_incoming", toldValue(p.tls.VerifyIncoming)))
		}
		all = append(all, in(p.name, "ca_file", toldValue(p.tls.CAFile)), in(p.name, "ca_path", toldValue(p.tls.CAPath)),
			in(p.name, "cert_file", toldValue(p.tls.CertFile)))
	}
	return all
}

func portComparisons(r *consul.Running) []comparison {
	var all []comparison
	if len(r.Ports) > 0 { // what is off is missing
		for _, name := range []string{"server", "serf_lan", "serf_wan", "http", "https", "grpc", "grpc_tls", "dns"} {
			all = append(all, comparison{runs: portNumber(int64(r.Ports[name])), keys: []string{"ports." + name}})
		}
	}
	if r.RangeKnown {
		all = append(all, comparison{runs: portNumber(int64(r.SidecarMin)), keys: []string{"ports.sidecar_min_port"}},
			comparison{runs: portNumber(int64(r.SidecarMax)), keys: []string{"ports.sidecar_max_port"}})
	}
	return all
}

// portNumber is a port, and -1 for all that turn it off.
func portNumber(value any) any {
	number, isInt := value.(int64)
	if float, ok := value.(float64); ok {
		number, isInt = int64(float), true // Consul cuts the fraction off
	}
	switch {
	case !isInt:
		return value
	case number < 1:
		return int64(-1)
	}
	return number
}

// written is what a file's value becomes in the agent.
func written(key string, value any) any {
	text, isText := value.(string)
	switch {
	case strings.HasPrefix(key, "ports."):
		return portNumber(value)
	case isText && key == "datacenter":
		return strings.ToLower(text)
	case isText && key == "node_name":
		return strings.TrimSpace(text)
	}
	return value
}

// pending gathers a row over settings.
type pending struct {
	in              *Input
	restart, reload []string // evidence of what waits for one
	maybe           []string // of what may
	key             []string // of a key that no restart takes up
	// same are settings that agree, by file: after a reload the agent only repeats what stands there.
	same map[string][]string
}

func restartPending(in *Input) Row {
	if !in.Running.Known {
		return in.Running.unknown("what the agent runs with")
	}
	if in.ConfigFiles.Known && len(in.ConfigFiles.Value) == 0 {
		return Row{Status: NotApplicable, Found: []string{"the agent was started without configuration files"}}
	}
	if !in.Disk.Known {
		return in.Disk.unknown("what the agent's files say").needing(giveConfig)
	}
	p := pending{in: in, same: map[string][]string{}}
	p.encryption()
	for _, c := range comparisons(&in.Running.Value) {
		p.compare(c)
	}
	p.addresses()
	return p.row()
}

func (p *pending) compare(c comparison) {
	settings, r := p.in.Disk.Value.Settings, &p.in.Running.Value
	for _, key := range c.keys {
		set, ok := settings.Lookup(key)
		if !ok {
			continue
		}
		if flag := p.in.flagOver(key); flag != "" && flag != flagAny {
			return // what the file says counts for nothing, before a restart and after it
		}
		value := written(key, set.Value)
		says := fmt.Sprintf("%s:%d says %s = %s, the agent ", set.File, set.Line, key, literal(value))
		switch {
		case c.runs == nil:
		case c.runs == value:
			if !c.reloads {
				p.same[set.File] = append(p.same[set.File], key)
			}
		case !c.reloads:
			p.restart = append(p.restart, says+"runs with "+literal(c.runs))
		case r.Since(showsReload):
			p.reload = append(p.reload, says+"runs with "+literal(c.runs)+": a reload takes it up")
		default:
			p.maybe = append(p.maybe, says+"was started with "+literal(c.runs)+
				"; this version does not tell whether a reload has taken it up since")
		}
		return
	}
}

// addresses compares where the APIs are served; their ports were compared already.
func (p *pending) addresses() {
	r := &p.in.Running.Value
	for _, running := range []api{{name: "http", at: r.HTTPAddrs}, {name: "https", at: r.HTTPSAddrs}, {name: "grpc", at: r.GRPCAddrs},
		{name: "grpc_tls", at: r.GRPCTLSAddrs}} {
		file := writtenAPI(p.in.Disk.Value, running.name)
		if !file.known || len(file.at) == 0 || len(running.at) == 0 {
			continue
		}
		for _, key := range []string{"addresses." + running.name, "client_addr"} {
			set, ok := p.in.Disk.Value.Settings.Lookup(key)
			if !ok || set.Value == "" {
				continue
			}
			if flag := p.in.flagOver(key); flag != "" && flag != flagAny {
				break
			}
			if slices.Equal(file.hosts(), running.hosts()) {
				p.same[set.File] = append(p.same[set.File], key)
			} else {
				p.restart = append(p.restart, fmt.Sprintf("%s:%d says %s = %s, the agent serves %s at %s",
					set.File, set.Line, key, literal(set.Value), apiTitle(running.name), strings.Join(running.at, ", ")))
			}
			break
		}
	}
}

// encryption compares encrypt. Consul writes the key of its first start into data_dir/serf/local.keyring; while that stands,
// another key in its files is a warning in its log and no more (setupBaseKeyrings).
func (p *pending) encryption() {
	settings, r := p.in.Disk.Value.Settings, &p.in.Running.Value
	set, ok := settings.Lookup("encrypt")
	text, isText := set.Value.(string)
	if !ok || !isText || text == "" {
		return
	}
	if p.in.flagOver("encrypt") == flagOf("encrypt") {
		return
	}
	where := fmt.Sprintf("%s:%d", set.File, set.Line)
	if r.GossipEncrypted != nil && !*r.GossipEncrypted {
		p.restart = append(p.restart, where+" sets encrypt, the agent runs without encrypted gossip")
		return
	}
	if p.in.keyInUse(text) {
		return
	}
	if off, ok := settings.Lookup("disable_keyring_file"); ok && off.Value == true {
		p.restart = append(p.restart, where+" sets an encrypt key that is not the datacenter's, and the agent would take it at its next start")
		return
	}
	p.key = append(p.key, where+" sets an encrypt key that is not the datacenter's; not even a restart changes that while serf/local.keyring "+
		"stands in the agent's data directory, but an agent that starts without it cannot join")
}

// keyInUse tells whether the datacenter has a key, and where it is not to be seen that it has.
func (in *Input) keyInUse(text string) bool {
	if key, err := base64.StdEncoding.DecodeString(text); err == nil {
		text = base64.StdEncoding.EncodeToString(key) // the one way in which the agent writes it
	}
	hash := consul.HashSecret(text)
	seen := false
	for _, ring := range in.Keyrings.Value {
		if ring.WAN || !strings.EqualFold(ring.Datacenter, in.Running.Value.Datacenter) {
			continue
		}
		for _, key := range ring.Keys {
			seen = seen || key.Hash != consul.TokenHash{}
			if key.Hash == hash {
				return true
			}
		}
	}
	return !seen
}

func (p *pending) row() Row {
	found := slices.Concat(p.restart, once(p.reload), once(p.maybe))
	if flags := p.in.Process; len(found) > 0 && (!flags.Known || slices.Contains(flags.Value.Flags, flagAny)) {
		found = append(found, flagsStandOver)
	}
	found = append(found, p.key...)
	row := Row{Status: Fail, Found: found}
	switch {
	case len(p.restart) > 0:
		return row
	case len(p.reload) > 0:
		row.Remedy = reloadRemedy
		return row
	case len(p.maybe) > 0:
		row.Status, row.Remedy = Warn, reloadRemedy
		return row
	case len(p.key) > 0:
		row.Status, row.Remedy = Warn, keyRemedy
		return row
	}
	return p.agreed()
}

// once leaves out what was said before: a line of tls.defaults counts for several protocols.
func once(texts []string) []string {
	var all []string
	for _, text := range texts {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// agreed is the row where the agent tells what its files say.
func (p *pending) agreed() Row {
	pass := Row{Status: Pass, Found: []string{"the agent tells what its files say"}}
	if len(p.same) == 0 {
		pass.Found = []string{"the files set nothing else than the agent tells"}
	}
	if !p.in.Running.Value.Since(showsReload) {
		return pass
	}
	row := Row{Status: Unknown, Found: []string{
		"the agent tells what its files say, as it does after a reload, though that changes neither gossip, ACLs nor ports"}}
	var unseen []string
	for _, file := range p.in.Disk.Value.Files {
		keys := p.same[file]
		if len(keys) == 0 && (p.in.age(file) != newer || p.in.definesOnly(file)) {
			continue
		}
		switch p.in.age(file) {
		case newer:
			if len(keys) == 0 {
				row.Found = append(row.Found, file+" was changed after the agent was started, and what it said before is not known")
				row.Needs = restartNeeded
				continue
			}
			row.Found = append(row.Found, fmt.Sprintf("%s was changed after the agent was started, and sets %s", file,
				few(slices.Compact(slices.Sorted(slices.Values(keys))), 5)))
			row.Needs = restartNeeded
		case ageUnknown:
			unseen = append(unseen, fmt.Sprintf("whether %s was changed after the agent was started is not known", file))
		case older:
		}
	}
	row.Found = append(row.Found, unseen...)
	switch {
	case len(row.Found) == 1:
		return pass
	case row.Needs == "":
		row.Needs = "run as root on the agent's host, with --consul-config: the process tells when it was started, " +
			"and the files when they were changed"
	}
	return row
}

const restartNeeded = "a restart of the agent"
