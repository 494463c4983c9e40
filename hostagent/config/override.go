// SPDX-License-Identifier: MPL-2.0

package config

import (
	"strconv"
	"strings"
)

// ApplyEnv puts Consul's client environment over the files. lookup is os.LookupEnv or its like; an empty variable counts
// as unset, as it does for Consul's own tools. A token from the environment also displaces a token_file from the files,
// and the other way round. The error is an Errors that names the variables. CONSUL_HTTP_AUTH is not looked at.
func (c *Config) ApplyEnv(lookup func(string) (string, bool)) error {
	var problems Errors
	for _, variable := range Variables() {
		value, ok := lookup(variable.Name)
		if !ok || value == "" {
			continue
		}
		from := origin{layer: layerEnv, name: variable.Name}
		switch variable.Name {
		case "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY":
			on, err := parseBool(value)
			if err != nil {
				problems = append(problems, from.problem(variable.Key, err.Error()))
				continue
			}
			if variable.Key == "" {
				c.wantTLS = on
				continue
			}
			value = strconv.FormatBool(!on)
		}
		problems = append(problems, c.override(variable.Key, []string{value}, from)...)
	}
	c.upgrade()
	return problems.sorted()
}

// SetFlag puts the value of a command-line flag over files and environment. name is the key with dashes: "close-delay",
// "consul-address". Lists are separated by commas and replace what was there. The error names the flag.
func (c *Config) SetFlag(name, value string) error {
	from := origin{layer: layerFlag, name: "flag --" + name}
	dashes := strings.NewReplacer("_", "-", ".", "-")
	for _, s := range settings() {
		if dashes.Replace(s.name) != name {
			continue
		}
		values := []string{value}
		if s.isList() {
			values = strings.Split(value, ",")
			if value == "" {
				values = nil
			}
		}
		problems := c.override(s.name, values, from)
		c.upgrade()
		return problems.sorted()
	}
	return &Error{Text: "flag --" + strconv.Quote(name) + ": no such key"}
}

// override stores values over what lower layers gave.
func (c *Config) override(key string, values []string, from origin) Errors {
	var problems Errors
	for _, s := range settings() {
		if s.name != key {
			continue
		}
		texts := make([]text, len(values))
		for i, value := range values {
			texts[i] = text{value, from}
		}
		for _, wrong := range s.store(c, texts, false) {
			problems = append(problems, from.problem(key, wrong.err.Error()))
		}
	}
	if len(values) == 1 && values[0] != "" {
		switch {
		case key == "consul.token" && c.where("consul.token_file", 0).layer < from.layer:
			c.Consul.TokenFile = ""
		case key == "consul.token_file" && c.where("consul.token", 0).layer < from.layer:
			c.Consul.Token = ""
		}
	}
	return problems
}

// upgrade makes an http address https where the environment asks for TLS, as Consul's own tools do: whoever asked for TLS
// never sends a token in the clear.
func (c *Config) upgrade() {
	if rest, plain := strings.CutPrefix(c.Consul.Address, "http://"); c.wantTLS && plain {
		c.Consul.Address = "https://" + rest
	}
}
