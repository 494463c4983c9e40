// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/sockets"
)

func scanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Look once at this host and print what is wrong",
		Long: `Looks once at the services of the local Consul agent and at the listeners of this host, and prints what is wrong.
It changes nothing and needs no root; it says what it could not see without.

Findings stand together by service, the worst first, each with the process behind it, since when it runs, where the
network reaches it and what mends it. Root sees command lines too, on a terminal only. Then comes who has which port of
the sidecar range. A terminal shows the first of many findings, a file or a pipe gets all.

With --consul-config it asks no agent and reads the service definitions that one would be started with; sidecars then
have the ports that it would assign. Without agent and definitions it lists who listens where the network can reach it.

With kv_prefix the settings of a fleet in Consul's KV count; where they cannot be had a note says so.

Exit status: 0 nothing found, 1 findings at or above --fail-on, 2 it could not look, or does not know all services.`,
		Example: `  hostagent scan
  sudo hostagent scan                names the processes of other users too
  sudo hostagent scan --all          every listener of the host
  sudo hostagent scan --watch        keeps the screen current until q is pressed
  hostagent scan --consul-config /etc/consul.d
  hostagent scan --probe             makes sure that sidecars answer on their ports
  hostagent scan --format json | jq '.findings[].message'
  hostagent scan --fail-on critical  for a cron job that is quiet about warnings`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	cmd.Flags().Bool("probe", false, "ask what listens on sidecars' ports for its certificate")
	s.flags = append(s.flags, "probe")
	definitions := addDefinitions(cmd)
	format := addFormat(cmd)
	failOn := cmd.Flags().String("fail-on", "warning", "`severity` from which findings make the exit status 1: info, warning, critical or never")
	completeFlag(cmd, "fail-on", failOnWords()...)
	all := cmd.Flags().Bool("all", false, "list every listener of the host too, TCP and UDP, with who holds it")
	watch := cmd.Flags().Bool("watch", false, "keep the screen current as things change; with --format json a line for each change")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold, err := parseFailOn(*failOn)
		if err != nil {
			return err
		}
		if err := format.check(); err != nil {
			return err
		}
		parts, problems, err := lookParts(cmd.Context(), s, *definitions)
		if err != nil {
			return err
		}
		parts.All = *all
		look := func(ctx context.Context) (*hostagent.Scan, error) {
			scan, err := hostagent.Look(ctx, parts)
			if err == nil {
				scan.Errors = append(scan.Errors, problems...)
				scan.NoteUnmatched()
			}
			return scan, err
		}
		var scan *hostagent.Scan
		if *watch {
			scan, err = watchScan(cmd, parts, look, format.json())
		} else {
			debug.SetGCPercent(oneShotGC)
			scan, err = scanOnce(cmd, look, format)
		}
		if err != nil || scan == nil {
			return err
		}
		return verdict(scan, threshold)
	}
	return cmd
}

// scanEdges is what a scan for people uses of the host beside Parts; what is nil is not to be had.
type scanEdges struct {
	// commandLine returns the arguments of a process, false where they cannot be seen. They hold passwords.
	commandLine func(sockets.Process) ([]string, bool)
	// changes calls wake when listeners come and go, until ctx ends.
	changes func(ctx context.Context, wake func()) error
}

func edges() scanEdges {
	return scanEdges{
		commandLine: sockets.CommandLine,
		changes: func(ctx context.Context, wake func()) error {
			return sockets.Watch(ctx, func(sockets.Heard) { wake() })
		},
	}
}

func drawScan(s *screen, scan *hostagent.Scan) string {
	s.showCommandLines(os.Geteuid(), edges().commandLine)
	return s.table(scan)
}

// showCommandLines shows them to root, and on a terminal only: what is written elsewhere may be kept.
func (s *screen) showCommandLines(euid int, read func(sockets.Process) ([]string, bool)) {
	if s.terminal && euid == 0 {
		s.commandLine = read
	}
}

// scanOnce looks and writes what it saw.
func scanOnce(cmd *cobra.Command, look func(context.Context) (*hostagent.Scan, error), format outputFormat) (*hostagent.Scan, error) {
	scan, err := look(cmd.Context())
	if err != nil {
		return nil, err
	}
	text := ""
	if format.json() {
		text, err = jsonText(scan.Document(version()))
	} else {
		text = drawScan(newScreen(cmd.OutOrStdout()), scan)
	}
	return scan, errors.Join(err, output(cmd, text))
}

// verdict is the exit status that a scan asks for.
func verdict(scan *hostagent.Scan, threshold catalog.Severity) error {
	if err := errors.Join(scan.Errors...); err != nil {
		return unknownServices(scan, err)
	}
	if worst, any := scan.Worst(); any && worst >= threshold {
		return &exitError{status: exitFindings}
	}
	return nil
}

// oneShotGC has the garbage of a single look collected at its end, with the process: a tenth of its time, for 4 MB with
// --all and thousands of listeners.
const oneShotGC = 400

// never is above every severity.
const never = catalog.Critical + 1

func failOnWords() []string { return []string{"info", "warning", "critical", "never"} }

func parseFailOn(text string) (catalog.Severity, error) {
	if err := checkChoice("fail-on", text, failOnWords()...); err != nil {
		return 0, err
	}
	if text == "never" {
		return never, nil
	}
	return catalog.ParseSeverity(text)
}

// lookParts builds what a command needs that looks once and changes nothing. Problems are what keeps definitions from being
// known; without definitions there are none. Where an agent is asked, settings of its KV count.
func lookParts(ctx context.Context, s *settings, paths []string) (p hostagent.Parts, problems []error, err error) {
	c, err := s.load()
	if err != nil {
		return p, nil, err
	}
	var notes []string
	if len(paths) == 0 {
		c, notes = s.overKV(ctx, c)
	}
	p, problems, err = lookPartsOf(c, paths)
	p.Notes = append(p.Notes, notes...)
	return p, problems, err
}

// lookPartsOf is lookParts of a configuration that is loaded.
func lookPartsOf(c *config.Config, paths []string) (p hostagent.Parts, problems []error, err error) {
	log := slog.New(slog.DiscardHandler)
	if len(paths) == 0 {
		p, err = parts(c, log)
	} else {
		p = partsWithoutConsul(c, log)
		p.Source = hostagent.SourceFiles
		var read *definitions
		read, problems, err = readDefinitions(paths)
		p.Registry = read
		if err == nil {
			p.Notes = append(p.Notes, read.note())
		}
	}
	if err != nil {
		return p, nil, err
	}
	fw, err := newFirewall(c)
	if err != nil {
		p.Firewall = unseen{err: err}
	} else {
		p.Firewall = fw
		useFirewall(&p, fw)
	}
	return p, problems, nil
}

// unknownServices is the end of a command that could not see all registrations.
func unknownServices(scan *hostagent.Scan, err error) error {
	if scan.Source == hostagent.SourceNone && hasUsualConfig() {
		err = fmt.Errorf("%w\n--consul-config %s reads the definitions there instead", err, usualConfig)
	}
	return &exitError{exitFailure, err}
}

// usualConfig is where the agent's configuration mostly stands.
const usualConfig = "/etc/consul.d"

func hasUsualConfig() bool {
	info, err := os.Stat(usualConfig)
	return err == nil && info.IsDir()
}

// unseen stands for a firewall that cannot be looked at. The reason (no root, no iptables) becomes a note of the scan.
type unseen struct {
	*firewall.Firewall // nil: looking calls nothing but Show and Plan
	err                error
}

func (u unseen) Show(context.Context) (firewall.State, error) { return firewall.State{}, u.err }

func (u unseen) Plan(context.Context, firewall.Ruleset) (firewall.Changes, error) {
	return firewall.Changes{}, u.err
}

func jsonText(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return escapeUnseen(b.String()), err
}

// escapeUnseen writes what a terminal could take for an order (C1 controls, marks of direction) as JSON's own escapes,
// which read back as the same text. Below DEL the encoder has done so already.
func escapeUnseen(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
