// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
)

func fleetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "List the datacenter's hosts, with and without hostagent",
		Long: `Asks Consul's servers, by way of the local agent, what the hostagents of a datacenter report, and prints it: each
host, how hostagent is there, its version, what it found, and the hosts that do not run it. The worst come first, and
equal findings stand together. It looks at nothing on this host beside the agent's API, changes nothing and needs no
root.

A host is silent when its reports have ended though nobody stopped hostagent, or when gossip does not reach it; what it
told last is shown. A terminal counts the hosts that are in order, unless they are few; --all, a file or a pipe lists
each.

With --service it shows the hosts of that service alone, and findings about it in full. What hosts tell is what they
report to Consul: those with report { detail = "counts" } tell no more than how many findings there are, and those
with reports turned off or under another report.service_name than this one count as without hostagent.

Its token needs node:read and service:read on all; hostagent acl-policy --fleet prints the policy.

--format html writes a page for a browser, which holds all of it and needs nothing beside itself.

--watch shows within seconds what changes on hostagent's own service, and within a minute what does not: results that
stand on applications' services (report { on = "service" }), and sidecars.

A silent host counts as critical, one without hostagent as a warning where sidecars of it are known of, and otherwise,
as one where hostagent was stopped, as info.

Exit status: 0 nothing found, 1 a finding or a host at or above --fail-on, 2 it could not look, or no host has the
service.`,
		Example: `  hostagent fleet
  hostagent fleet --all                      hosts in order too
  hostagent fleet --service web              one service, with what mends its findings
  hostagent fleet --datacenter dc2
  hostagent fleet --watch                    keeps the screen current until q is pressed
  hostagent fleet --format json | jq -r '.hosts[] | select(.state == "missing").node'
  hostagent fleet --format html --output fleet.html
  hostagent fleet --fail-on critical         for a cron job that is quiet about warnings`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	o := addFleetOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold, err := o.check(newScreen(cmd.OutOrStdout()).terminal)
		if err != nil {
			return err
		}
		c, err := s.load()
		if err != nil {
			return err
		}
		source, err := o.source(c)
		if err != nil {
			return err
		}
		defer source.close()
		var report *fleet.Report
		if o.watch {
			report, err = watchFleet(cmd, source, o)
		} else {
			debug.SetGCPercent(oneShotGC)
			report, err = fleetOnce(cmd, source, o)
		}
		if err != nil || report == nil {
			return err
		}
		if worst, any := report.Worst(); any && worst >= threshold {
			return &exitError{status: exitFindings}
		}
		return nil
	}
	return cmd
}

// fleetOptions are the flags of fleet beside those of the configuration.
type fleetOptions struct {
	service, datacenter string
	format, failOn      string
	output              string // the file of a page, "" for the standard output
	all, watch          bool
}

func fleetFormats() []string { return []string{"table", "json", formatHTML} }

func addFleetOptions(cmd *cobra.Command) *fleetOptions {
	o := new(fleetOptions)
	flags := cmd.Flags()
	flags.StringVar(&o.service, "service", "", "`name` of a service: only its hosts, and findings about it in full")
	completeFlag(cmd, "service") // with nothing: no file is meant
	flags.StringVar(&o.datacenter, "datacenter", "", "`name` of the datacenter, instead of the agent's own")
	completeFlag(cmd, "datacenter")
	flags.StringVar(&o.format, "format", fleetFormats()[0], "`format` of the output: table, json or html")
	completeFlag(cmd, "format", fleetFormats()...)
	flags.StringVar(&o.output, "output", "", "`file` to write a page to instead of the standard output")
	completeFiles(cmd, "output", formatHTML)
	flags.StringVar(&o.failOn, "fail-on", "warning", "`severity` from which findings and hosts make the exit status 1: info, warning, critical or never")
	completeFlag(cmd, "fail-on", failOnWords()...)
	flags.BoolVar(&o.all, "all", false, "list hosts and findings on a terminal that nobody has to look at, too")
	flags.BoolVar(&o.watch, "watch", false, "keep the screen current as hosts report; with --format json a line for each change")
	return o
}

// check returns the severity of --fail-on.
func (o *fleetOptions) check(terminal bool) (catalog.Severity, error) {
	threshold, err := parseFailOn(o.failOn)
	if err := errors.Join(err, checkChoice("format", o.format, fleetFormats()...)); err != nil {
		return 0, err
	}
	switch {
	case o.format != formatHTML && o.output != "":
		return 0, errors.New("--output is for pages: add --format html, or write > FILE instead")
	case o.format == formatHTML && o.watch:
		return 0, errors.New("--watch keeps a screen current, and a page is a picture of one moment: leave one of --watch and --format html out")
	case o.format == formatHTML:
		return threshold, checkPageOutput(o.output, terminal)
	}
	return threshold, nil
}

// text writes a report in the format that was asked for.
func (o *fleetOptions) text(screen *screen, r *fleet.Report, notes []string) (string, error) {
	switch o.format {
	case "json":
		return jsonText(r.Document(version()))
	}
	return screen.fleet(r, o.all, notes), nil
}

// fleetSource is where reports of a fleet come from.
type fleetSource struct {
	client  *consul.Client // for looks
	changes *consul.Client // for what waits meanwhile; a client is for one goroutine
	query   consul.FleetQuery
	notes   []string
}

// source connects to the agent of the configuration.
func (o *fleetOptions) source(c *config.Config) (*fleetSource, error) {
	options, err := consulOptions(c)
	if err != nil {
		return nil, err
	}
	f := &fleetSource{query: consul.FleetQuery{Service: c.Report.ServiceName, Application: o.service, Datacenter: o.datacenter}}
	if f.client, err = consul.New(options); err != nil {
		return nil, err
	}
	f.notes = append(config.Mistyped(os.Environ()), f.client.Warnings()...)
	if o.watch {
		if f.changes, err = consul.New(options); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

func (f *fleetSource) close() {
	f.client.Close()
	if f.changes != nil {
		f.changes.Close()
	}
}

// look asks for the fleet as it is. A service that nobody tells of is an error: what is not seen is not in order.
func (f *fleetSource) look(ctx context.Context) (*fleet.Report, error) {
	seen, err := f.client.Fleet(ctx, f.query)
	if err != nil {
		return nil, err
	}
	report := fleet.Evaluate(seen, fleet.Query{Service: f.query.Service, Application: f.query.Application})
	if err := untold(&report, f.query.Application); err != nil {
		return nil, err
	}
	return &report, nil
}

// untold is why a report tells nothing of the service that was asked for, nil where it does.
func untold(r *fleet.Report, service string) error {
	if service == "" {
		return nil
	}
	name, datacenter := catalog.Clean(service), catalog.Clean(r.Datacenter)
	runs, tells := false, false
	for i := range r.Hosts {
		runs = runs || r.Hosts[i].State == fleet.Runs
		tells = tells || len(r.Hosts[i].Services) > 0
	}
	var err error
	switch {
	case runs && !tells:
		err = fmt.Errorf("no host tells anything of service %q: hostagent reports on applications with a sidecar, native services and gateways", name)
	case len(r.Hosts) > 0:
		return nil
	case r.Others > 0:
		err = fmt.Errorf("service %q stands on %s of datacenter %q only, where none of its Consul agents runs", name, plural(r.Others, "node"), datacenter)
	default:
		err = fmt.Errorf("no host of datacenter %q has an instance of service %q in the catalog", datacenter, name)
	}
	if application, isSidecar := strings.CutSuffix(name, "-sidecar-proxy"); isSidecar {
		return fmt.Errorf("%w; did you mean %q?", err, application)
	}
	return fmt.Errorf("%w\nconsul catalog services lists what there is", err)
}

// fleetOnce looks and writes what it saw.
func fleetOnce(cmd *cobra.Command, source *fleetSource, o *fleetOptions) (*fleet.Report, error) {
	report, err := source.look(cmd.Context())
	if err != nil {
		return nil, err
	}
	if o.format == formatHTML {
		return report, writePage(cmd, o.output, fleetPage(report, source.notes, time.Now()))
	}
	text, err := o.text(newScreen(cmd.OutOrStdout()), report, source.notes)
	return report, errors.Join(err, output(cmd, text))
}

const (
	fleetEvery = time.Minute // what the index does not tell of, such as sidecars
	fleetApart = time.Second
	fleetRest  = 3                // looks take a quarter of the time at most
	fleetRetry = 10 * time.Second // of waiting for changes, after it failed
)

// watchFleet is fleet --watch.
func watchFleet(cmd *cobra.Command, source *fleetSource, o *fleetOptions) (*fleet.Report, error) {
	return runWatch(cmd, newFleetWatch(source.look, source.watch), showingFleet(o.all, source.notes), o.format == "json")
}

func newFleetWatch(look func(context.Context) (*fleet.Report, error), changes func(context.Context, func()) error) *watching[fleet.Report] {
	return &watching[fleet.Report]{look: look, changes: changes, every: fleetEvery, apart: fleetApart, rest: fleetRest}
}

// showingFleet tells how a fleet is shown while it is watched. Hosts stand out on which something is new.
func showingFleet(all bool, notes []string) showing[fleet.Report] {
	return showing[fleet.Report]{
		draw:     func(s *screen, r *fleet.Report) string { return s.fleet(r, all, notes) },
		document: func(r *fleet.Report) any { return r.Document(version()) },
		summary:  fleetSummary,
		keys: func(r *fleet.Report) []string {
			keys := make([]string, len(r.Hosts))
			for i := range r.Hosts {
				keys[i] = hostKey(&r.Hosts[i])
			}
			return keys
		},
	}
}

// watch calls wake when the servers see something else or cannot be asked, until ctx ends.
func (f *fleetSource) watch(ctx context.Context, wake func()) error {
	var index consul.FleetIndex
	for ctx.Err() == nil {
		next, err := f.changes.FleetChanged(ctx, f.query, index)
		pause := fleetApart
		switch {
		case err != nil:
			wake() // the look tells what is wrong
			pause, index = fleetRetry, consul.FleetIndex{}
		case next != index:
			wake()
			index = next
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}
