// SPDX-License-Identifier: MPL-2.0

package config

import (
	"net/netip"
	"slices"
	"time"
)

// kind is the shape of the values that a key takes in a file.
type kind int

const (
	kindText     kind = iota
	kindSecret        // text that no error may quote
	kindDuration      // text such as "30s"
	kindBool
	kindTexts // list of texts
	kindPorts // list of texts or numbers
	kindPort  // text or number
	kindDay   // text such as "2027-01-31"
)

// setting is one key of the configuration: how its text becomes a value, where the value lives, what it may be.
type setting struct {
	name string // with its block: "consul.address"
	kind kind
	// store parses and checks texts, one for a single value, and puts what is good into c. It appends to what a
	// list holds where extend is set, without what is there already. Errors belong to the text of the same index.
	store func(c *Config, texts []text, extend bool) []elementError
	// kv says whether Consul's KV may set it.
	kv kvRight
	// check tells what is wrong with what c holds now: a caller may have set fields by hand.
	check func(c *Config) []elementError
}

// text is one value as the operator wrote it.
type text struct {
	value string
	from  origin
}

// elementError is what is wrong with one element of a list; a single value is element 0.
type elementError struct {
	index int
	err   error
}

func (s setting) isList() bool { return s.kind == kindTexts || s.kind == kindPorts }

// takesRanges tells whether "80-90" is a value of s.
func (s setting) takesRanges() bool { return s.kind == kindPorts || s.name == "sidecar_range" }

// settings returns every key that the configuration knows, in the order of the reference configuration.
func settings() []setting {
	return []setting{
		one("mode", kindText, func(c *Config) *Mode { return &c.Mode },
			oneOf(ModeObserve, ModeGuard), unlessZero(checkOneOf(ModeObserve, ModeGuard))).inKV(kvEnforcing),
		one("sidecar_range", kindText, func(c *Config) *PortRange { return &c.SidecarRange },
			parseSidecarRange, checkSidecarRange),
		many("extra_ports", kindPorts, func(c *Config) *[]PortRange { return &c.ExtraPorts },
			parsePortRange, checkPortRange),
		many("protected_ports", kindPorts, func(c *Config) *[]PortRange { return &c.ProtectedPorts },
			parsePortRange, checkPortRange),
		many("guard_ports", kindPorts, func(c *Config) *[]PortRange { return &c.GuardPorts },
			parsePortRange, checkPortRange),
		many("allow_from", kindTexts, func(c *Config) *[]Source { return &c.AllowFrom },
			parseSource, checkSource).inKV(kvFree),
		one("allow_local_bridges", kindBool, func(c *Config) *bool { return &c.AllowLocalBridges },
			parseBool, anything[bool]),
		many("exposed_paths_from", kindTexts, func(c *Config) *[]Source { return &c.ExposedPathsFrom },
			parseSource, checkSource),
		many("gateways", kindTexts, func(c *Config) *[]string { return &c.Gateways },
			asText, checkName),
		many("native_services", kindTexts, func(c *Config) *[]string { return &c.NativeServices },
			asText, checkName),
		one("scope", kindText, func(c *Config) *Scope { return &c.Scope },
			oneOf(ScopeMesh, ScopeAll), checkOneOf(ScopeMesh, ScopeAll)),
		one("probe", kindBool, func(c *Config) *bool { return &c.Probe },
			parseBool, anything[bool]),
		one("audit", kindBool, func(c *Config) *bool { return &c.Audit },
			parseBool, anything[bool]),
		one("enforce", kindText, func(c *Config) *Enforce { return &c.Enforce },
			oneOf(EnforceReport, EnforceQuarantine), checkOneOf(EnforceReport, EnforceQuarantine)).inKV(kvEnforcing),
		many("quarantine_ports", kindPorts, func(c *Config) *[]PortRange { return &c.QuarantinePorts },
			parsePortRange, checkPortRange),
		many("quarantine_findings", kindTexts, func(c *Config) *[]string { return &c.QuarantineFindings },
			oneOf(quarantineFindings()...), checkOneOf(quarantineFindings()...)),
		many("quarantine_services", kindTexts, func(c *Config) *[]string { return &c.QuarantineServices },
			asText, checkName),
		one("cut_on_close", kindBool, func(c *Config) *bool { return &c.CutOnClose },
			parseBool, anything[bool]),
		one("close_delay", kindDuration, func(c *Config) *time.Duration { return &c.CloseDelay },
			parseDuration, between(time.Second, time.Hour)).inKV(kvFree),
		one("poll_interval", kindDuration, func(c *Config) *time.Duration { return &c.PollInterval },
			parseDuration, between(200*time.Millisecond, 10*time.Second)),
		one("check_interval", kindDuration, func(c *Config) *time.Duration { return &c.CheckInterval },
			parseDuration, between(time.Second, 10*time.Minute)),
		one("log_level", kindText, logLevel, parseLogLevel, checkLogLevel),
		one("log_format", kindText, func(c *Config) *LogFormat { return &c.LogFormat },
			oneOf(LogText, LogJSON), checkOneOf(LogText, LogJSON)),
		one("state_dir", kindText, func(c *Config) *string { return &c.StateDir },
			asText, checkFolder),
		one("kv_prefix", kindText, func(c *Config) *string { return &c.KVPrefix },
			asText, unlessZero(checkKVPrefix)),
		one("kv_may_enforce", kindBool, func(c *Config) *bool { return &c.KVMayEnforce },
			parseBool, anything[bool]),

		one("firewall.backend", kindText, func(c *Config) *Backend { return &c.Firewall.Backend },
			oneOf(BackendAuto, BackendIptables, BackendNFTables), checkOneOf(BackendAuto, BackendIptables, BackendNFTables)),
		one("firewall.accept", kindText, func(c *Config) *Accept { return &c.Firewall.Accept },
			parseAccept, checkAccept),
		one("firewall.iptables_variant", kindText, iptablesVariant,
			oneOf(IptablesAuto, IptablesNFT, IptablesLegacy), checkOneOf(IptablesAuto, IptablesNFT, IptablesLegacy)),
		one("firewall.publish_set", kindText, func(c *Config) *SetName { return &c.Firewall.PublishSet },
			parseSetName, unlessZero(checkSetName)),

		one("consul.address", kindText, func(c *Config) *string { return &c.Consul.Address },
			parseAddress, checkAddress),
		one("consul.token", kindSecret, func(c *Config) *Secret { return &c.Consul.Token }, asSecret, checkToken),
		plain("consul.token_file", func(c *Config) *string { return &c.Consul.TokenFile }),
		plain("consul.ca_file", func(c *Config) *string { return &c.Consul.CAFile }),
		plain("consul.ca_path", func(c *Config) *string { return &c.Consul.CAPath }),
		plain("consul.cert_file", func(c *Config) *string { return &c.Consul.CertFile }),
		plain("consul.key_file", func(c *Config) *string { return &c.Consul.KeyFile }),
		plain("consul.tls_server_name", func(c *Config) *string { return &c.Consul.TLSServerName }),
		one("consul.insecure_skip_verify", kindBool, func(c *Config) *bool { return &c.Consul.InsecureSkipVerify },
			parseBool, anything[bool]),
		plain("consul.namespace", func(c *Config) *string { return &c.Consul.Namespace }),
		plain("consul.partition", func(c *Config) *string { return &c.Consul.Partition }),
		plain("consul.user", func(c *Config) *string { return &c.Consul.User }),
		one("consul.allow_remote_agent", kindBool, func(c *Config) *bool { return &c.Consul.AllowRemoteAgent },
			parseBool, anything[bool]),
		one("consul.catalog_wakeup", kindBool, func(c *Config) *bool { return &c.Consul.CatalogWakeup },
			parseBool, anything[bool]),
		one("consul.timeout", kindDuration, func(c *Config) *time.Duration { return &c.Consul.Timeout },
			parseDuration, between(100*time.Millisecond, 20*time.Second)),

		one("report.enabled", kindBool, func(c *Config) *bool { return &c.Report.Enabled },
			parseBool, anything[bool]).inKV(kvFree),
		one("report.service_name", kindText, func(c *Config) *string { return &c.Report.ServiceName },
			asText, checkLabel),
		one("report.on", kindText, func(c *Config) *ReportOn { return &c.Report.On },
			oneOf(ReportOnHostagent, ReportOnService), checkOneOf(ReportOnHostagent, ReportOnService)).inKV(kvEnforcing),
		one("report.status", kindText, func(c *Config) *ReportStatus { return &c.Report.Status },
			oneOf(ReportWarning, ReportCritical), checkOneOf(ReportWarning, ReportCritical)).inKV(kvEnforcing),
		many("report.warning_services", kindTexts, func(c *Config) *[]string { return &c.Report.WarningServices },
			asText, checkName).inKV(kvEnforcing),
		many("report.critical_services", kindTexts, func(c *Config) *[]string { return &c.Report.CriticalServices },
			asText, checkName).inKV(kvEnforcing),
		one("report.detail", kindText, func(c *Config) *ReportDetail { return &c.Report.Detail },
			oneOf(ReportFull, ReportCounts), checkOneOf(ReportFull, ReportCounts)).inKV(kvFree),
		one("report.spread", kindDuration, func(c *Config) **time.Duration { return &c.Report.Spread },
			parseSpread, checkSpread).inKV(kvFree),

		one("metrics.address", kindText, func(c *Config) *netip.AddrPort { return &c.Metrics.Address },
			parseMetricsAddress, unlessZero(checkMetricsAddress)),
		one("metrics.allow_network", kindBool, func(c *Config) *bool { return &c.Metrics.AllowNetwork },
			parseBool, anything[bool]),
	}
}

// blocks returns the names of the blocks.
func blocks() []string { return []string{"firewall", "consul", "report", "metrics"} }

// plain is a setting of any printable text.
func plain(name string, field func(*Config) *string) setting {
	return one(name, kindText, field, asText, checkPrintable)
}

// one is a setting of a single value.
func one[T any](name string, kind kind, field func(*Config) *T, parse func(string) (T, error),
	check func(T) error) setting {
	return setting{
		name: name, kind: kind,
		store: func(c *Config, texts []text, _ bool) []elementError {
			value, err := parse(texts[0].value)
			if err == nil {
				err = check(value)
			}
			if err != nil {
				return []elementError{{0, err}}
			}
			*field(c) = value
			c.setOrigins(name, []origin{texts[0].from})
			return nil
		},
		check: func(c *Config) []elementError {
			if err := check(*field(c)); err != nil {
				return []elementError{{0, err}}
			}
			return nil
		},
	}
}

// many is a setting of a list.
func many[T comparable](name string, kind kind, field func(*Config) *[]T, parse func(string) (T, error),
	check func(T) error) setting {
	return setting{
		name: name, kind: kind,
		store: func(c *Config, texts []text, extend bool) []elementError {
			var wrong []elementError
			var values []T
			var from []origin
			if extend {
				// Clipped, so that append never writes into what a copy of c may hold.
				values, from = slices.Clip(*field(c)), slices.Clip(c.origins[name])
			}
			earlier := make(map[T]bool, len(values))
			for _, value := range values {
				earlier[value] = true
			}
			for i, text := range texts {
				value, err := parse(text.value)
				if err == nil {
					err = check(value)
				}
				if err != nil {
					wrong = append(wrong, elementError{i, err})
					continue
				}
				// Ports that one list names twice stay, so that Validate can show both places.
				if earlier[value] {
					earlier[value] = kind != kindPorts
					continue
				}
				earlier[value] = kind != kindPorts
				values, from = append(values, value), append(from, text.from)
			}
			*field(c) = values
			c.setOrigins(name, from)
			return wrong
		},
		check: func(c *Config) []elementError {
			var wrong []elementError
			for i, value := range *field(c) {
				if err := check(value); err != nil {
					wrong = append(wrong, elementError{i, err})
				}
			}
			return wrong
		},
	}
}
