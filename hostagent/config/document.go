// SPDX-License-Identifier: MPL-2.0

package config

import "strings"

// Key is one key of the configuration, for documentation of it.
type Key struct {
	Name string // with its block: "consul.address"
	Type string // what its values are, in a few words: "list of ports and ranges"
	// Default tells that a host which does not set the key has a value all the same: the one of the reference configuration.
	Default bool
}

// Keys returns every key that a file may set, those of the blocks too.
func Keys() []Key {
	var keys []Key
	for _, s := range settings() {
		keys = append(keys, Key{Name: s.name, Type: s.kind.String(), Default: s.name != "mode"})
	}
	for _, s := range exemptSettings() {
		keys = append(keys, Key{Name: s.key(), Type: s.kind.String()})
	}
	return keys
}

// String says what values of a key of this kind are.
func (k kind) String() string {
	switch k {
	case kindText:
		return "text"
	case kindSecret:
		return "secret text"
	case kindDuration:
		return "duration"
	case kindBool:
		return "true or false"
	case kindTexts:
		return "list of texts"
	case kindPorts:
		return "list of ports and ranges"
	case kindPort:
		return "port"
	case kindDay:
		return "day"
	}
	return ""
}

// Variable is an environment variable that stands over the files.
type Variable struct {
	Name string
	Key  string // that it sets; "" for CONSUL_HTTP_SSL, which makes an address https
}

// Variables returns those that ApplyEnv looks at: of Consul's client environment all that hostagent has a use for.
func Variables() []Variable {
	return []Variable{
		{"CONSUL_HTTP_ADDR", "consul.address"},
		{"CONSUL_HTTP_TOKEN", "consul.token"},
		{"CONSUL_HTTP_TOKEN_FILE", "consul.token_file"},
		{"CONSUL_HTTP_SSL", ""},
		{"CONSUL_HTTP_SSL_VERIFY", "consul.insecure_skip_verify"},
		{"CONSUL_CACERT", "consul.ca_file"},
		{"CONSUL_CAPATH", "consul.ca_path"},
		{"CONSUL_CLIENT_CERT", "consul.cert_file"},
		{"CONSUL_CLIENT_KEY", "consul.key_file"},
		{"CONSUL_TLS_SERVER_NAME", "consul.tls_server_name"},
		{"CONSUL_NAMESPACE", "consul.namespace"},
		{"CONSUL_PARTITION", "consul.partition"},
	}
}

// Mistyped returns a sentence for each of the variables ("NAME=value", as os.Environ has them) that is no variable of ours
// and only a slip away from one. It shows no values: they may be tokens.
func Mistyped(environ []string) []string {
	var known, notes []string
	for _, variable := range Variables() {
		known = append(known, strings.ToLower(variable.Name))
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		lower := strings.ToLower(name)
		near := Closest(lower, known)
		if near == "" || !strings.HasPrefix(lower, "consul") || strings.ToUpper(near) == name {
			continue
		}
		notes = append(notes, "the environment variable "+quote(name)+" means nothing to hostagent; did you mean "+strings.ToUpper(near)+"?")
	}
	return notes
}
