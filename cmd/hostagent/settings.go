// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/hostagent/probe"
	"github.com/hostagent/hostagent/sockets"
)

// settings are the flags that every command with a configuration has.
type settings struct {
	cmd   *cobra.Command
	paths []string
	under []config.Document // settings for a fleet
	flags []string          // names of the flags that stand over a key of the configuration
}

// addSettings gives cmd --config, and a flag over each of the given keys.
func addSettings(cmd *cobra.Command, keys map[string]string) *settings {
	s := &settings{cmd: cmd}
	cmd.Flags().StringArrayVar(&s.paths, "config", nil, "`path` of a configuration file or folder, repeatable (default "+config.DefaultPath+")")
	completeFiles(cmd, "config", "hcl")
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		cmd.Flags().String(name, "", keys[name])
		s.flags = append(s.flags, name)
		if name == tokenFileFlag {
			completeFiles(cmd, name)
		}
	}
	return s
}

const tokenFileFlag = "consul-token-file"

// consulKeys are the flags of commands that talk to Consul.
func consulKeys() map[string]string {
	return map[string]string{
		"consul-address": "`address` of the local Consul agent, instead of CONSUL_HTTP_ADDR",
		tokenFileFlag:    "`file` that holds the ACL token, instead of CONSUL_HTTP_TOKEN_FILE",
		"consul-user":    "`user` that the agent runs as, by name or number, where that is neither root nor consul",
	}
}

// load reads settings for a fleet, files, environment and flags, in that order of growing weight.
func (s *settings) load() (*config.Config, error) {
	c, err := config.LoadOver(s.under, s.paths...)
	if err != nil {
		return nil, err
	}
	if err := c.ApplyEnv(os.LookupEnv); err != nil {
		return nil, err
	}
	for _, name := range s.flags {
		flag := s.cmd.Flags().Lookup(name)
		if !flag.Changed {
			continue
		}
		if err := c.SetFlag(name, flag.Value.String()); err != nil {
			return nil, err
		}
	}
	return c, c.Validate()
}

// loadOver is load with other documents of Consul's KV under the files.
func (s *settings) loadOver(under []config.Document) (*config.Config, error) {
	over := *s
	over.under = under
	return over.load()
}

// lacksMode tells that c has no mode and that Consul's KV cannot give it one.
func lacksMode(c *config.Config) bool { return c.Mode == "" && (c.KVPrefix == "" || !c.KVMayEnforce) }

// consulOptions tells how to reach the agent.
func consulOptions(c *config.Config) (consul.Config, error) {
	trust, err := trust(c)
	if err != nil {
		return consul.Config{}, err
	}
	return consul.Config{
		Address: c.Consul.Address, Token: c.Consul.Token.Reveal(), TokenFile: c.Consul.TokenFile,
		CAFile: c.Consul.CAFile, CAPath: c.Consul.CAPath, CertFile: c.Consul.CertFile, KeyFile: c.Consul.KeyFile,
		ServerName: c.Consul.TLSServerName, InsecureSkipVerify: c.Consul.InsecureSkipVerify,
		Namespace: c.Consul.Namespace, Partition: c.Consul.Partition, Timeout: c.Consul.Timeout,
		UserAgent: "hostagent/" + version(), Trust: trust,
	}, nil
}

// parts builds everything but the firewall, which only some commands may touch.
func parts(c *config.Config, log *slog.Logger) (hostagent.Parts, error) {
	p := partsWithoutConsul(c, log)
	options, err := consulOptions(c)
	if err != nil {
		return hostagent.Parts{}, err
	}
	client, err := consul.New(options)
	if err != nil {
		return hostagent.Parts{}, err
	}
	p.Registry, p.Address, p.Members = client, client.Address(), client.Members
	p.Certificates, p.Notes = client.Certificates, append(config.Mistyped(os.Environ()), client.Warnings()...)
	clients := []*consul.Client{client}
	if c.Probe {
		beside, err := consul.New(options) // a client is for one goroutine
		if err != nil {
			return hostagent.Parts{}, err
		}
		p.Roots, p.Ask = beside.Roots, probe.Ask
		clients = append(clients, beside)
	}
	if c.Consul.CatalogWakeup {
		beside, err := consul.New(options)
		if err != nil {
			return hostagent.Parts{}, err
		}
		p.Changed = beside.Changed
		clients = append(clients, beside)
	}
	p.Close = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	return p, nil
}

func partsWithoutConsul(c *config.Config, log *slog.Logger) hostagent.Parts {
	return hostagent.Parts{
		Policy: policy(c), CloseDelay: c.CloseDelay, PollInterval: c.PollInterval, Report: c.Report.Enabled, Spread: c.Report.Spread,
		Listen: sockets.List, Owners: sockets.NewOwners(), Elsewhere: sockets.NewElsewhere().List,
		Connections: sockets.Connections, EndConnections: sockets.End,
		Host: lookAtHost(nil), Networks: facts.ReadNetworks, Log: log, Version: version(), StateDir: c.StateDir,
	}
}

// lookAtHost returns what reads a hostagent.Host; fw may be nil.
func lookAtHost(fw *firewall.Firewall) func(context.Context) *hostagent.Host {
	return func(ctx context.Context) *hostagent.Host {
		host := &hostagent.Host{Facts: facts.Read(ctx, facts.Options{})}
		if fw == nil {
			return host
		}
		var err error
		if host.Published, err = fw.Published(ctx); err != nil {
			host.Partial = true
			host.Notes = append(host.Notes, fmt.Sprintf("ports that nat rules send elsewhere may be missing: %v", err))
		}
		host.Redirects, err = fw.Redirects(ctx) // reads the same, and says the same of it
		host.RedirectsKnown = err == nil
		host.ForeignNAT = fw.ForeignNAT()
		return host
	}
}

func policy(c *config.Config) hostagent.Policy {
	p := hostagent.Policy{
		Exemptions:       exemptions(c),
		AllowRemoteAgent: c.Consul.AllowRemoteAgent,
		CountsOnly:       c.Report.Detail == config.ReportCounts,
		Mode:             hostagent.Mode(c.Mode),
		ExtraPorts:       portSet(c.ExtraPorts),
		GuardPorts:       portSet(c.GuardPorts),
		Protected:        portSet(c.ProtectedPorts),
		AllowBridges:     c.AllowLocalBridges,
		CutOnClose:       c.CutOnClose,
		Gateways:         c.Gateways,
		Native:           c.NativeServices,
		Namespace:        c.Consul.Namespace,
		AllServices:      c.Scope == config.ScopeAll,
		Probe:            c.Probe,
		OwnService:       c.Report.ServiceName,
		Accept:           firewall.Accept(c.Firewall.Accept),
		PublishSet:       firewall.SetName(c.Firewall.PublishSet),
	}
	for _, source := range c.AllowFrom {
		if source.Cluster {
			p.AllowCluster = true
		} else {
			p.AllowFrom = append(p.AllowFrom, source.Network)
		}
	}
	for _, source := range c.ExposedPathsFrom {
		if source.Cluster {
			p.ExposedPathsCluster = true
		} else {
			p.ExposedPathsFrom = append(p.ExposedPathsFrom, source.Network)
		}
	}
	if c.Report.On == config.ReportOnService {
		p.ReportOnService = map[string]consul.Status{"": consul.Status(c.Report.Status)}
		for _, name := range c.Report.WarningServices {
			p.ReportOnService[name] = consul.Warning
		}
		for _, name := range c.Report.CriticalServices {
			p.ReportOnService[name] = consul.Critical
		}
	}
	if c.Enforce == config.EnforceQuarantine {
		q := hostagent.Quarantine{Ports: portSet(c.QuarantinePorts), Services: c.QuarantineServices}
		for _, id := range c.QuarantineFindings {
			q.Findings = append(q.Findings, catalog.ID(id))
		}
		p.Quarantine = &q
	}
	if r := c.SidecarRange; r != (config.PortRange{}) {
		p.SidecarRange = &hostagent.PortRange{First: r.First, Last: r.Last}
	}
	return p
}

func portSet(ranges []config.PortRange) firewall.PortSet {
	var s firewall.PortSet
	for _, r := range ranges {
		s.AddRange(r.First, r.Last)
	}
	return s
}

// useFirewall gives parts what they need of a firewall beside the rules.
func useFirewall(p *hostagent.Parts, fw *firewall.Firewall) {
	p.Host, p.Blocked = lookAtHost(fw), fw.Blocked
	if set := p.Policy.PublishSet; set != (firewall.SetName{}) {
		p.Publish = func(ctx context.Context, open firewall.PortSet) (bool, error) { return fw.Publish(ctx, set, open) }
	}
}

// firewall opens the firewall as the configuration says.
func (s *settings) firewall() (*firewall.Firewall, error) {
	c, err := s.load()
	if err != nil {
		return nil, err
	}
	return newFirewall(c)
}

func newFirewall(c *config.Config) (*firewall.Firewall, error) {
	return firewall.New(firewallOptions(c))
}

func firewallOptions(c *config.Config) firewall.Options {
	return firewall.Options{
		Backend:     firewall.Backend(c.Firewall.Backend),
		Variant:     firewall.Variant(c.Firewall.IptablesVariant),
		VerifyEvery: c.CheckInterval,
	}
}
