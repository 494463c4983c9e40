// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/status"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Ask the hostagent that runs on this host how it is",
		Long: `Asks the hostagent that runs on this host for its mode, its last whole answer of Consul, what it holds in the kernel,
the open ports with their services, its findings, and what it cannot do here. It looks at nothing itself. Only root and
the group of the socket may ask.

Exit status: 0 it runs and no step of it fails, 1 some step fails, settings of the fleet are refused, or the
configuration was not reloaded, 2 it cannot be asked.`,
		Example: `  sudo hostagent status
  sudo hostagent status --format json | jq .consul.last_whole_answer
  sudo curl --unix-socket ` + hostagent.StatusSocket + ` http://localhost/v1/status`,
		Args: noArguments,
	}
	format := addFormat(cmd)
	socket := cmd.Flags().String("socket", hostagent.StatusSocket, "`path` of the socket on which it answers")
	completeFiles(cmd, "socket")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := format.check(); err != nil {
			return err
		}
		st, err := status.Ask(cmd.Context(), *socket)
		if err != nil {
			return err
		}
		text := ""
		if format.json() {
			text, err = jsonText(st)
		} else {
			text = newScreen(cmd.OutOrStdout()).status(&st, elsewhere(&st), time.Now())
		}
		if err != nil {
			return err
		}
		if err := output(cmd, text); err != nil {
			return err
		}
		if cmp.Or(st.Configuration.Error, st.Settings.Error, st.Consul.Error, st.Listeners.Error, st.Firewall.Error, st.Report.Error) != "" {
			return &exitError{status: exitFindings}
		}
		return nil
	}
	return cmd
}

// elsewhere tells whether what answered works in another network namespace: several may share a folder for sockets.
func elsewhere(st *hostagent.Status) bool {
	own, err := hostagent.NetworkNamespace()
	return err == nil && st.Namespace != 0 && st.Namespace != own
}

// status writes st for people. All of it came over a socket, so all of it is cleaned.
func (s *screen) status(st *hostagent.Status, elsewhere bool, now time.Time) string {
	clean := func(text string) string { return catalog.CleanTo(text, 2000) }
	head := fmt.Sprintf("hostagent %s, %s mode", clean(st.Version), clean(string(st.Mode)))
	if st.Started != nil {
		head += ", started " + ago(st.Started, now)
	}
	s.wrapped("", head)
	if elsewhere {
		s.wrapped("", "It works in another network namespace than this one: nothing below is about this one.")
	}
	s.text.WriteByte('\n')
	if st.Configuration.Error != "" {
		s.wrapped("config:     ", "what is on disk was refused at the last reload, what was in force stays so")
		s.failure(st.Configuration.Error)
	}
	if st.Settings.Prefix != "" {
		s.wrapped("settings:   ", "from Consul's KV, below "+clean(st.Settings.Prefix))
		s.failure(st.Settings.Error)
	}
	node := "nothing known of the agent at " + clean(st.Consul.Address)
	if st.Consul.Node != "" {
		node = fmt.Sprintf("node %s, datacenter %s, Consul %s at %s",
			clean(st.Consul.Node), clean(st.Consul.Datacenter), clean(st.Consul.Version), clean(st.Consul.Address))
	}
	s.wrapped("consul:     ", node)
	s.wrapped("            ", "last whole answer "+ago(st.Consul.LastWholeAnswer, now))
	s.wrapped("            ", wakeupText(&st.Consul.Wakeup))
	s.failure(st.Consul.Error)
	s.wrapped("pass:       ", fmt.Sprintf("number %d, %s, took %s", st.Pass.Count, ago(st.Pass.Last, now),
		time.Duration(st.Pass.Duration*float64(time.Second)).Round(100*time.Microsecond)))
	s.failure(st.Listeners.Error)
	s.firewall(st, now)
	if st.Report.Error != "" {
		s.wrapped("report:     ", "the checks in Consul are not up to date")
		s.failure(st.Report.Error)
	}
	s.wrapped("range:      ", clean(st.SidecarRange))
	for _, o := range st.Openings {
		text := fmt.Sprintf("%d  %s", o.Port, clean(strings.Join(o.Services, ", ")))
		if o.Kind == hostagent.OpensPath || o.Kind == hostagent.OpensMetrics {
			text += clean(", " + string(o.Kind) + ", from " + strings.Join(o.From, ", "))
		}
		if o.Held {
			text = fmt.Sprintf("%d  %s (no longer registered, closes after close_delay)", o.Port, clean(strings.Join(o.Registrations, ", ")))
		}
		s.wrapped("  port ", text)
	}
	s.audited(&st.Audit, now)
	for _, text := range st.Degradations {
		s.wrapped("degraded:   ", clean(text))
	}
	s.text.WriteByte('\n')
	for i := range st.Findings {
		f := &st.Findings[i]
		s.finding(f.Severity, clean(string(f.ID)), clean(string(f.State)), clean(f.Message), f.Exemption.String(), clean(f.Remedy))
	}
	if len(st.Findings) == 0 {
		s.wrapped("", "no findings")
	}
	return s.text.String()
}

// audited writes what the last audit found, in short.
func (s *screen) audited(a *hostagent.StatusAudit, now time.Time) {
	switch {
	case a.Score == nil: // of a hostagent that has no audits
		return
	case !a.Enabled:
		s.wrapped("checklist:  ", "off (audit = false)")
		return
	case a.Last == nil:
		s.wrapped("checklist:  ", "not looked at yet")
		return
	}
	s.wrapped("checklist:  ", audit.Score(a.Score).String()+", "+ago(a.Last, now))
	if len(a.Failing) > 0 {
		failing := make([]string, len(a.Failing))
		for i, id := range a.Failing {
			failing[i] = string(id)
		}
		s.wrapped("            ", "failing: "+catalog.CleanTo(strings.Join(failing, ", "), 2000))
	}
}

// wakeupText says how soon registrations are seen.
func wakeupText(w *hostagent.StatusWakeup) string {
	text := "catalog wake-up " + catalog.Clean(string(w.State))
	if w.Reason != "" {
		text += ": " + catalog.CleanTo(w.Reason, 2000)
	}
	return text
}

func (s *screen) firewall(st *hostagent.Status, now time.Time) {
	f := &st.Firewall
	clean := func(text string) string { return catalog.CleanTo(text, 2000) }
	holds := "guarded"
	switch {
	case st.Mode == hostagent.ModeObserve:
		holds = "guard mode would guard"
	case !f.Settled:
		holds = "nothing is closed before a second whole answer of Consul; guarded"
	}
	s.wrapped("firewall:   ", fmt.Sprintf("%s %s, open %s", holds, clean(f.Guarded), clean(f.Open)))
	if f.Cut != "none" && f.Cut != "" {
		s.wrapped("            ", "connections cut on "+clean(f.Cut))
	}
	for _, q := range f.Quarantined {
		s.wrapped("            ", fmt.Sprintf("%d in quarantine for %s", q.Port, clean(cmp.Or(strings.Join(q.Services, ", "), "an earlier run"))))
	}
	if len(f.AllowFrom) > 0 {
		s.wrapped("            ", "open to "+clean(strings.Join(f.AllowFrom, ", "))+" only ("+plural(f.Sources, "source")+")")
	}
	if f.ExposedPaths != "none" && f.ExposedPaths != "" {
		s.wrapped("            ", "exposed paths "+clean(f.ExposedPaths)+" open to "+clean(strings.Join(f.ExposedPathsFrom, ", "))+" only")
	}
	switch {
	case st.Mode != hostagent.ModeGuard:
	case f.LastApply == nil && f.LastChange == nil:
		s.wrapped("            ", strings.TrimPrefix(clean(f.Backend)+", nothing written yet", ", "))
	default:
		s.wrapped("            ", fmt.Sprintf("%s, as wanted %s, last change %s, %s", clean(f.Backend), ago(f.LastApply, now), ago(f.LastChange, now),
			plural(f.Repairs, "repair")))
	}
	s.failure(f.Error)
}

// failure writes why a step fails, if it does.
func (s *screen) failure(text string) {
	begin := "            FAILS: "
	for line := range strings.Lines(text) { // joined errors have one each
		s.wrapped(begin, catalog.CleanTo(strings.TrimSuffix(line, "\n"), 2000))
		begin = "              and: "
	}
}

// ago says how long before now a moment was.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	d := now.Sub(*t)
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
