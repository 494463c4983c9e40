// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Hold this host against Consul's production checklist for the mesh",
		Long: `Looks once at this host and its Consul agent, and says item by item whether what the service mesh's security rests on
is there: access control, encryption between agents, the mesh's certificate authority, the host's firewall, the
service instances, and the agent's files and process. It changes nothing and tries no write.

Each item passes, fails, warns, is to be known (info), does not apply (n/a), or is unknown: what could not be seen never
passes, and the item says what would show it. Root sees the most: files with tokens are read by root alone, and no
token or key is ever shown. hostagent explain tells more about an item.

With --consul-config it also reads the agent's configuration, for what the agent does not tell. Where no agent answers,
or with --offline, it judges those files alone, and the services that they define.

Exit status: 0 nothing at or above --fail-on, 1 something is, 2 it could not look: no agent answers, and there are no
files.`,
		Example: `  sudo hostagent audit
  sudo hostagent audit --consul-config /etc/consul.d
  hostagent audit --offline --consul-config /etc/consul.d   before an agent is started with it
  hostagent audit --only acls,gossip-key
  hostagent audit --skip ca --fail-on warn
  hostagent audit --format json | jq '.items[] | select(.status == "fail").id'
  hostagent audit --format markdown > ticket.md`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	o := addAuditOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		wanted, err := o.wanted()
		if err != nil {
			return err
		}
		c, err := s.load()
		if err != nil {
			return err
		}
		debug.SetGCPercent(oneShotGC)
		var notes []string
		if !o.offline {
			c, notes = s.overKV(cmd.Context(), c)
		}
		seen, err := lookForAudit(cmd.Context(), c, o.paths, o.offline)
		if err != nil {
			return &exitError{exitFailure, err}
		}
		seen.report.Notes = append(seen.report.Notes, notes...)
		seen.keep(wanted)
		text, err := o.text(newScreen(cmd.OutOrStdout()), seen)
		if err := errors.Join(err, output(cmd, text)); err != nil {
			return err
		}
		return o.verdict(&seen.report)
	}
	return cmd
}

// auditOptions are the flags of an audit beside those of the configuration.
type auditOptions struct {
	paths          []string // of the agent's configuration
	offline        bool
	format, failOn string
	only, skip     []string // ids of items, and words of steps
}

func auditFormats() []string { return []string{"table", "json", "markdown"} }

func auditFailOn() []string { return []string{"unknown", "warn", "fail", "never"} }

func addAuditOptions(cmd *cobra.Command) *auditOptions {
	o := new(auditOptions)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.paths, "consul-config", nil,
		"`path` of the agent's configuration file or folder, repeatable: read it beside what the agent tells")
	completeFiles(cmd, "consul-config", "hcl", "json")
	flags.BoolVar(&o.offline, "offline", false, "ask no agent: judge this host and the files of --consul-config alone")
	flags.StringVar(&o.format, "format", auditFormats()[0], "`format` of the output: table, json or markdown")
	completeFlag(cmd, "format", auditFormats()...)
	flags.StringVar(&o.failOn, "fail-on", "fail", "`status` of an item from which the exit status is 1: unknown, warn, fail or never")
	completeFlag(cmd, "fail-on", auditFailOn()...)
	flags.StringSliceVar(&o.only, "only", nil, "`items` to show, by id or as whole steps, with commas between: acls, transport, ca, firewall, instances or files")
	completeWords(cmd, "only", auditWords())
	flags.StringSliceVar(&o.skip, "skip", nil, "`items` to leave out, by id or as whole steps: acls, transport, ca, firewall, instances or files")
	completeWords(cmd, "skip", auditWords())
	return o
}

// auditWords are what --only and --skip take: the words of steps, and the ids of items.
func auditWords() (words []string) {
	for _, step := range catalog.Steps() {
		words = append(words, step.String())
	}
	for _, item := range catalog.Items() {
		words = append(words, string(item.ID))
	}
	return words
}

func (o *auditOptions) check() error {
	if o.offline && len(o.paths) == 0 {
		return errors.New("--offline asks no agent, so there is nothing to judge: name its configuration with --consul-config, as in --consul-config /etc/consul.d")
	}
	return errors.Join(checkChoice("format", o.format, auditFormats()...), checkChoice("fail-on", o.failOn, auditFailOn()...))
}

// wanted tells which items --only and --skip leave.
func (o *auditOptions) wanted() (func(catalog.Item) bool, error) {
	if err := errors.Join(checkAuditWords("only", o.only), checkAuditWords("skip", o.skip)); err != nil {
		return nil, err
	}
	names := func(words []string, item catalog.Item) bool {
		return slices.Contains(words, string(item.ID)) || slices.Contains(words, item.Step.String())
	}
	wanted := func(item catalog.Item) bool {
		return (len(o.only) == 0 || names(o.only, item)) && !names(o.skip, item)
	}
	if !slices.ContainsFunc(catalog.Items(), wanted) {
		return nil, errors.New("--only and --skip leave no item to show")
	}
	return wanted, nil
}

// checkAuditWords refuses words of --only and --skip that name nothing.
func checkAuditWords(flag string, words []string) error {
	known := auditWords()
	for _, word := range words {
		if slices.Contains(known, word) {
			continue
		}
		if _, isFinding := catalog.Lookup(catalog.ID(word)); isFinding {
			return fmt.Errorf("flag --%s: %s is a finding of hostagent scan and no item of the checklist; hostagent explain lists both", flag, word)
		}
		if near := nearest(word, known); near != "" {
			return fmt.Errorf("flag --%s: unknown item %q; did you mean %q?", flag, word, near)
		}
		return fmt.Errorf("flag --%s: unknown item %q; hostagent explain lists the ids of items, and whole steps are %q", flag, word, known[:len(catalog.Steps())])
	}
	return nil
}

// verdict is the exit status that an audit asks for.
func (o *auditOptions) verdict(report *audit.Report) error {
	if o.failOn == "never" || audit.Status(o.failOn).Worse(report.Worst()) {
		return nil
	}
	return &exitError{status: exitFindings}
}

// text writes an audit in the format that was asked for.
func (o *auditOptions) text(screen *screen, seen *audited) (string, error) {
	switch o.format {
	case "json":
		return jsonText(seen.report.Document(seen.subject, version()))
	case "markdown":
		return auditMarkdown(seen.report.Document(seen.subject, version())), nil
	}
	return screen.audit(seen), nil
}

// audited is an audit, whose it is, and the look at the host that it rests on.
type audited struct {
	report  audit.Report
	subject audit.Subject
	scan    *hostagent.Scan
}

// keep leaves only the rows of wanted items, and says so.
func (a *audited) keep(wanted func(catalog.Item) bool) {
	all := len(a.report.Rows)
	a.report = a.report.Keep(wanted)
	if left := all - len(a.report.Rows); left > 0 {
		a.report.Notes = append(slices.Clip(a.report.Notes), plural(left, "item")+" left out by --only and --skip")
	}
}

// auditWithin is how long an audit may look: the agent has a deadline for each question, and servers may be far.
const auditWithin = time.Minute

// lookForAudit looks at this host, at its agent, and at the files that paths name. It fails where it could look at neither
// agent nor files.
func lookForAudit(ctx context.Context, c *config.Config, paths []string, offline bool) (*audited, error) {
	ctx, cancel := context.WithTimeout(ctx, auditWithin)
	defer cancel()
	sources := audit.Sources{ConfigPaths: paths, Root: os.Geteuid() == 0}
	notes, files, err := readForAudit(paths, offline)
	if err != nil {
		return nil, err
	}
	var client *consul.Client
	if !offline {
		options, err := consulOptions(c)
		if err != nil {
			return nil, err
		}
		if client, err = consul.New(options); err != nil {
			return nil, err
		}
		defer client.Close()
		sources.Consul, sources.Address = client, client.Address()
		sources.PID, sources.Unit = newAgentFinder(new(sharedOwners), options.Trust).find(ctx, sources.Address)
	}
	if !files {
		paths = nil
	}
	scan, err := scanForAudit(ctx, c, paths, offline)
	if err != nil {
		return nil, err
	}
	sources.Host = scan.AuditHost(ctx)
	in := audit.Look(ctx, sources)
	if scan.Source == hostagent.SourceNone && !slices.ContainsFunc(scan.Errors, answered) && !in.Running.Known && !in.Disk.Known {
		return nil, nothingToAudit(scan)
	}
	seen := &audited{report: audit.Evaluate(in), subject: subjectOf(scan, &in), scan: scan}
	if client != nil && seen.subject.Node == "" {
		seen.subject.Node, _ = client.NodeName(ctx) // as good as none: the notes tell of an agent that says nothing
	}
	for _, note := range slices.Concat(notes, scan.Notes) {
		if !slices.Contains(seen.report.Notes, note) {
			seen.report.Notes = append(seen.report.Notes, note)
		}
	}
	return seen, nil
}

// readForAudit reads the files that paths name, for what is to be said of them. files tells whether there are any; without an
// agent it fails where there are none.
func readForAudit(paths []string, offline bool) (notes []string, files bool, err error) {
	const most = 20 // problems
	if len(paths) == 0 {
		return nil, false, nil
	}
	read, problems, err := readDefinitions(paths)
	if err != nil {
		return nil, false, err
	}
	if files = len(read.read.Files) > 0; offline && !files {
		return nil, false, errors.Join(problems...)
	}
	notes = append(notes, read.note())
	for _, problem := range problems[:min(len(problems), most)] {
		notes = append(notes, problem.Error())
	}
	if more := len(problems) - most; more > 0 {
		notes = append(notes, fmt.Sprintf("and %s that Consul would refuse", plural(more, "more mistake")))
	}
	return notes, files, nil
}

// scanForAudit looks at the host as a scan does: at the services of the agent, and where it does not answer or is not to be
// asked at those of the files.
func scanForAudit(ctx context.Context, c *config.Config, paths []string, offline bool) (*hostagent.Scan, error) {
	look := func(paths []string) (*hostagent.Scan, error) {
		parts, _, err := lookPartsOf(c, paths)
		if err != nil {
			return nil, err
		}
		if parts.Close != nil {
			defer parts.Close()
		}
		return hostagent.Look(ctx, parts)
	}
	if offline {
		return look(paths)
	}
	scan, err := look(nil)
	if err != nil || scan.Source != hostagent.SourceNone {
		return scan, err
	}
	unanswered, text := scan.Errors, "the agent's services are not known: %v"
	if len(paths) > 0 {
		if scan, err = look(paths); err != nil {
			return nil, err
		}
		text = "the agent does not tell, and services are those of the files: %v"
	}
	for _, problem := range unanswered {
		scan.Notes = append(scan.Notes, fmt.Sprintf(text, problem))
	}
	scan.Errors = unanswered
	return scan, nil
}

// answered tells whether err is an agent's no: much of the checklist takes no right, and what takes one says which.
func answered(err error) bool {
	return slices.Contains([]consul.Kind{consul.KindDenied, consul.KindFiltered, consul.KindThrottled}, consul.KindOf(err))
}

// nothingToAudit is why there is no audit, and what would allow for one.
func nothingToAudit(scan *hostagent.Scan) error {
	why := errors.Join(scan.Errors...)
	if why == nil {
		why = errors.New("no agent answers")
	}
	if hasUsualConfig() {
		return fmt.Errorf("cannot audit without an agent or files: %w\n--consul-config %s judges the configuration there instead", why, usualConfig)
	}
	return fmt.Errorf("cannot audit without an agent or files: %w\n--consul-config with the folder of its configuration judges that instead", why)
}

// subjectOf tells whose audit it is.
func subjectOf(scan *hostagent.Scan, in *audit.Input) audit.Subject {
	agent := scan.Agent
	if in.Running.Known && in.Running.Value.Node != "" {
		agent = in.Running.Value.Agent
	}
	return audit.Subject{Node: agent.Node, Datacenter: agent.Datacenter, ConsulVersion: agent.Version}
}

// hourlyAudit returns what the running agent audits with, which is for one goroutine, and adds the end of its connection to
// p.Close.
func (d *daemon) hourlyAudit(c *config.Config, p *hostagent.Parts) (func(context.Context, audit.Seen[audit.Host]) audit.Report, error) {
	options, err := consulOptions(c)
	if err != nil {
		return nil, err
	}
	client, err := consul.New(options) // a client is for one goroutine
	if err != nil {
		return nil, err
	}
	closeRest := p.Close
	p.Close = func() {
		if closeRest != nil {
			closeRest()
		}
		client.Close()
	}
	finder := newAgentFinder(&d.audits, options.Trust)
	return func(ctx context.Context, host audit.Seen[audit.Host]) audit.Report {
		sources := audit.Sources{Consul: client, Address: client.Address(), Service: true, Root: os.Geteuid() == 0, Host: host}
		sources.PID, sources.Unit = finder.find(ctx, sources.Address)
		return audit.Evaluate(audit.Look(ctx, sources))
	}, nil
}
