// SPDX-License-Identifier: MPL-2.0

package configdir

import "strings"

// replacement is an older key, and the one that Consul 1.21 reads in its place unless a file has that too.
type replacement struct{ old, now string }

// replacements are in Consul's order, which counts where two older keys mean the same.
var replacements = [...]replacement{
	{"acl.tokens.agent_master", "acl.tokens.agent_recovery"},
	{"acl_agent_master_token", "acl.tokens.agent_recovery"},
	{"acl_agent_token", "acl.tokens.agent"},
	{"acl_token", "acl.tokens.default"},
	{"acl.tokens.master", "acl.tokens.initial_management"},
	{"acl_master_token", "acl.tokens.initial_management"},
	{"acl_replication_token", "acl.tokens.replication"},
	{"enable_acl_replication", "acl.enable_token_replication"},
	{"acl_datacenter", "primary_datacenter"},
	{"acl_default_policy", "acl.default_policy"},
	{"acl_down_policy", "acl.down_policy"},
	{"acl_ttl", "acl.token_ttl"},
	{"acl_enable_key_list_policy", "acl.enable_key_list_policy"},
	{"raft_boltdb.NoFreelistSync", "raft_logstore.boltdb.no_freelist_sync"},
	{"ca_file", "tls.defaults.ca_file"},
	{"ca_path", "tls.defaults.ca_path"},
	{"cert_file", "tls.defaults.cert_file"},
	{"key_file", "tls.defaults.key_file"},
	{"tls_cipher_suites", "tls.defaults.tls_cipher_suites"},
	{"tls_min_version", "tls.defaults.tls_min_version"},
	{"verify_incoming", "tls.defaults.verify_incoming"},
	{"verify_incoming_https", "tls.https.verify_incoming"},
	{"verify_incoming_rpc", "tls.internal_rpc.verify_incoming"},
	{"verify_outgoing", "tls.defaults.verify_outgoing"},
	{"verify_server_hostname", "tls.internal_rpc.verify_server_hostname"},
}

// ignored are the keys that Consul Community Edition 1.21 reads and forgets, with a warning.
var ignored = [...]string{
	"tls_prefer_server_cipher_suites", "dns_config.prefer_namespace", "acl.msp_disable_bootstrap", "acl.tokens.managed_service_provider", "license_path",
	"reporting.license.enabled",
}

// replaceDeprecated does to one file what Consul does to it before merging.
func replaceDeprecated(root *object) {
	for _, r := range replacements {
		v, ok := root.take(r.old)
		if !ok {
			continue
		}
		switch r.old {
		case "acl_replication_token":
			root.put("acl.enable_token_replication", value{true, v.line})
		case "acl_datacenter":
			root.put("acl.enabled", value{true, v.line})
		case "tls_min_version":
			v.held = tlsVersion(v.held)
		case "verify_incoming":
			// It never was about gRPC, so it must not become so as a default.
			root.suggest("tls.grpc.verify_incoming", value{false, v.line})
		}
		root.suggest(r.now, v)
	}
	for _, r := range [...]replacement{{"start_join", "retry_join"}, {"start_join_wan", "retry_join_wan"}} {
		v, _ := root.take(r.old)
		if added, _ := v.held.([]value); len(added) > 0 {
			root.put(r.now, value{append(root.list(r.now), added...), v.line})
		}
	}
	for _, key := range ignored {
		root.take(key)
	}
}

func tlsVersion(old any) any {
	switch old {
	case "":
		return "TLS_AUTO"
	case "tls10":
		return "TLSv1_0"
	case "tls11":
		return "TLSv1_1"
	case "tls12":
		return "TLSv1_2"
	case "tls13":
		return "TLSv1_3"
	}
	return old
}

// parent returns the object that holds the last key of a dotted path, and that key; nil where there is none and none is to
// be made.
func (o *object) parent(path string, create bool) (*object, string) {
	sections := strings.Split(path, ".")
	last := len(sections) - 1
	for _, section := range sections[:last] {
		inner := o.object(section)
		if inner == nil {
			if !create {
				return nil, ""
			}
			inner = &object{keys: map[string]value{}, line: o.line}
			o.keys[section] = value{inner, o.line}
		}
		o = inner
	}
	return o, sections[last]
}

func (o *object) take(path string) (value, bool) {
	parent, key := o.parent(path, false)
	if parent == nil || !parent.has(key) {
		return value{}, false
	}
	v := parent.keys[key]
	delete(parent.keys, key)
	return v, true
}

func (o *object) put(path string, v value) {
	parent, key := o.parent(path, true)
	parent.keys[key] = v
}

// suggest puts v unless there is a value.
func (o *object) suggest(path string, v value) {
	if parent, key := o.parent(path, true); !parent.has(key) {
		parent.keys[key] = v
	}
}
