// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

func firewallPlanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what guard mode would change now, changing nothing",
		Long: `Prints what guard mode would change on this host now: ports that would open and for whom, ports that would
close, and, above all, what the network would lose by that: listeners, with who holds them and how many
connections from the network they have, and ports of containers. It changes nothing. Without root it cannot see
rules of hostagent that stand already, and says so.

Running connections stay when a port closes; new ones are dropped. Only where a port goes into quarantine running
ones end too, and the plan says so. Connections to ports that nat rules send to a container are not counted.

Exit status: 0 nobody would be cut off, 1 somebody would be, 2 it could not tell.`,
		Example: `  sudo hostagent firewall plan
  hostagent firewall plan --format json | jq '.cuts[].port'
  hostagent firewall plan --consul-config /etc/consul.d`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	definitions := addDefinitions(cmd)
	format := addFormat(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := format.check(); err != nil {
			return err
		}
		parts, problems, err := lookParts(cmd.Context(), s, *definitions)
		if err != nil {
			return err
		}
		plan, err := hostagent.LookAhead(cmd.Context(), parts)
		if err != nil {
			return err
		}
		plan.Errors = append(plan.Errors, problems...)
		text := ""
		if format.json() {
			text, err = jsonText(plan.Document(version()))
		} else {
			text = newScreen(cmd.OutOrStdout()).plan(plan)
		}
		if err := errors.Join(err, output(cmd, text)); err != nil {
			return err
		}
		if err := errors.Join(plan.Errors...); err != nil {
			return &exitError{exitFailure, err}
		}
		if len(plan.Cuts) > 0 {
			return &exitError{status: exitFindings}
		}
		return nil
	}
	return cmd
}

// plan writes a plan for people: a line a change, led by the mark that a diff would have.
func (s *screen) plan(p *hostagent.Plan) string {
	s.wrapped("", heading(p.Scan)+": what guard mode would change now")
	s.gap()
	for _, o := range p.Opens {
		s.marked("+", "open ", fmt.Sprintf("%d  %s", o.Port, openingFor(&o)))
	}
	if p.Closes.Len() > 0 {
		s.marked("-", "close", p.Closes.String())
	}
	for i := range p.Cuts {
		s.marked("!", "cut  ", cutText(&p.Cuts[i]))
	}
	if p.Later.Len() > 0 {
		s.marked("-", "later", p.Later.String()+"  (not registered any more, closes after close_delay)")
	}
	if p.Releases.Len() > 0 {
		s.marked("+", "free ", p.Releases.String()+"  (no longer guarded)")
	}
	for _, o := range p.Keeps {
		s.marked("=", "open ", fmt.Sprintf("%d  %s", o.Port, openingFor(&o)))
	}
	if len(p.AllowFrom) > 0 {
		s.wrapped("open ports admit ", allowed(p))
	}
	s.gap()
	for _, line := range p.Changes.Lines() {
		s.wrapped("kernel: ", catalog.CleanTo(line, 2000))
	}
	s.gap()
	for _, f := range p.RangeFindings() {
		s.finding(f.Severity, string(f.ID), string(f.State), f.Message, f.Exemption.String(), f.Remedy)
	}
	s.gap()
	s.wrapped("", planSummary(p))
	for _, note := range p.Notes {
		s.wrapped("note: ", note)
	}
	return s.text.String()
}

// marked writes one change.
func (s *screen) marked(mark, verb, text string) {
	colours := map[string]string{"+": "32", "-": "33", "!": "31;1"}
	head := mark + " " + verb
	if code := colours[mark]; s.colour && code != "" {
		s.text.WriteString("\x1b[" + code + "m" + head + "\x1b[0m")
		s.wrappedAfter(len(head), "  ", text)
		return
	}
	s.wrapped(head+"  ", text)
}

func openingFor(o *hostagent.Opening) string {
	text := o.For()
	if o.Predicted {
		text += "  (predicted)"
	}
	return text
}

func cutText(c *hostagent.Cut) string {
	text := fmt.Sprintf("tcp port %d", c.Port)
	if c.Listener != nil {
		text = socketText(c.Listener) + "  " + processText(c.Listener, c.Owner)
	}
	if c.Owner != nil && c.Owner.Unit != "" {
		text += ", " + catalog.Clean(c.Owner.Unit)
	}
	if c.GoesTo != "" {
		text += ", which nat rules send to " + catalog.Clean(c.GoesTo)
	}
	switch {
	case c.Connections < 0:
		text += ", connections not counted"
	case c.Outside:
		setting := "allow_from"
		if c.Path {
			setting = "exposed_paths_from"
		}
		return text + ", " + plural(c.Connections, "connection") + " from outside of " + setting
	default:
		text += ", " + plural(c.Connections, "connection") + " from the network"
	}
	if c.Ends && c.Connections != 0 {
		text += ", ended"
	}
	if len(c.For) > 0 {
		names := make([]string, len(c.For))
		for i, name := range c.For {
			names[i] = catalog.Clean(name)
		}
		text += ", in quarantine for " + strings.Join(names, ", ")
	}
	return text
}

func allowed(p *hostagent.Plan) string {
	return catalog.CleanTo(strings.Join(p.AllowFrom, ", "), 2000) + " only (" + plural(len(p.Rules.AllowFrom), "source") + ")"
}

func planSummary(p *hostagent.Plan) string {
	var nothing firewall.PortSet
	caveat := ""
	if len(p.Errors) > 0 {
		caveat = "; Consul would not start on these files, and once they are mended other ports may be assigned"
	}
	if len(p.Opens) == 0 && len(p.Cuts) == 0 && p.Closes == nothing && p.Releases == nothing && p.Changes.Empty() {
		return "nothing would change" + caveat
	}
	text := fmt.Sprintf("%s to open, %d to close, %s", plural(len(p.Opens), "port"), p.Closes.Len(), cutsText(p))
	return text + caveat
}

func cutsText(p *hostagent.Plan) string {
	if len(p.Cuts) == 0 {
		return "nobody to be cut off"
	}
	ends := 0
	for i := range p.Cuts {
		if p.Cuts[i].Ends {
			ends++
		}
	}
	if ends == len(p.Cuts) {
		return fmt.Sprintf("%d to be cut off: running connections would end, new ones would be dropped", ends)
	}
	text := fmt.Sprintf("%d to be cut off: running connections stay, new ones would be dropped", len(p.Cuts))
	if ends > 0 {
		text += fmt.Sprintf("; running ones of %d would end too", ends)
	}
	return text
}
