// SPDX-License-Identifier: MPL-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

const (
	dropsDeadline = 2 * time.Second
	dropsKept     = 5 * time.Second // so that scrapes are cheap however many scrape
)

// scrape is the collector of one scrape: what is read and not counted.
type scrape struct {
	descriptions *descriptions
	status       hostagent.Status
	dropped      map[string]uint64 // by family
	droppedErr   error
	lacking      *atomic.Uint64 // scrapes so far that left something out
}

type descriptions struct {
	open, guarded, quarantined, mode, findings, dropped, events, answer, apply, pass, failing, degradations, audited, lacking *prometheus.Desc
}

func describe() descriptions {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hostagent_"+name, help, labels, nil)
	}
	return descriptions{
		open:         desc("open_ports", "Ports of the mesh that are open, or in observe mode would be."),
		guarded:      desc("guarded_ports", "Ports that are closed unless they are open, or in observe mode would be."),
		quarantined:  desc("quarantined_ports", "Ports that are closed because an application is exposed on them, or in observe mode would be."),
		mode:         desc("mode", "1 for the mode in force, 0 for the other.", "mode"),
		findings:     desc("findings", "Findings at present.", "id", "severity", "state"),
		dropped:      desc("guard_dropped_syns_total", "Connection attempts (SYNs) that the guard dropped.", "family"),
		events:       desc("listen_events", "1 while listeners are heard of as they appear, 0 while they are found by polling only."),
		answer:       desc("last_whole_answer_timestamp_seconds", "Unix time of the Consul agent's last whole answer, 0 for never."),
		apply:        desc("last_apply_timestamp_seconds", "Unix time at which the kernel last was as wanted, 0 for never."),
		pass:         desc("last_pass_timestamp_seconds", "Unix time at which the last pass began, 0 for never."),
		failing:      desc("step_failing", "1 while the step fails, 0 otherwise.", "step"),
		degradations: desc("degradations", "Things that hostagent cannot do on this host."),
		audited:      desc("audit_items", "Items of the production checklist by what the last audit found, all 0 before the first.", "status"),
		lacking:      desc("scrape_errors_total", "Scrapes that had to leave something out."),
	}
}

// Describe implements prometheus.Collector.
func (s *scrape) Describe(ch chan<- *prometheus.Desc) {
	d := s.descriptions
	for _, desc := range []*prometheus.Desc{d.open, d.guarded, d.quarantined, d.mode, d.findings, d.dropped, d.events, d.answer, d.apply, d.pass, d.failing, d.degradations, d.audited, d.lacking} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector. It is called once.
func (s *scrape) Collect(ch chan<- prometheus.Metric) {
	d, whole := s.descriptions, s.droppedErr == nil
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	ports := func(desc *prometheus.Desc, text string) {
		n, err := countPorts(text)
		if err != nil {
			whole = false
			return
		}
		gauge(desc, float64(n))
	}
	ports(d.open, s.status.Firewall.Open)
	ports(d.guarded, s.status.Firewall.Guarded)
	gauge(d.quarantined, float64(len(s.status.Firewall.Quarantined)))
	for _, mode := range modes() {
		value := 0.0
		if s.status.Mode == mode {
			value = 1
		}
		gauge(d.mode, value, string(mode))
	}
	for labels, n := range countFindings(s.status.Findings) {
		gauge(d.findings, float64(n), string(labels.id), labels.severity.String(), string(labels.state))
	}
	for _, family := range families() {
		if n, ok := s.dropped[family]; ok && s.droppedErr == nil {
			counter(d.dropped, n, family)
		}
	}
	events := 0.0
	if s.status.Listeners.Events {
		events = 1
	}
	gauge(d.events, events)
	gauge(d.answer, seconds(s.status.Consul.LastWholeAnswer))
	gauge(d.apply, seconds(s.status.Firewall.LastApply))
	gauge(d.pass, seconds(s.status.Pass.Last))
	for step, trouble := range map[string]string{
		"consul": s.status.Consul.Error, "listeners": s.status.Listeners.Error, "apply": s.status.Firewall.Error, "report": s.status.Report.Error,
		"settings": s.status.Settings.Error,
	} {
		value := 0.0
		if trouble != "" {
			value = 1
		}
		gauge(d.failing, value, step)
	}
	gauge(d.degradations, float64(len(s.status.Degradations)))
	for _, status := range audit.Statuses() {
		gauge(d.audited, float64(s.status.Audit.Score[status]), string(status))
	}
	if !whole {
		s.lacking.Add(1)
	}
	counter(d.lacking, s.lacking.Load())
}

// findingLabels are the labels of hostagent_findings.
type findingLabels struct {
	id       catalog.ID
	severity catalog.Severity
	state    hostagent.State
}

// countFindings counts findings by label, with a 0 for every id of the catalog that has none which is open, so that an
// alert sees a number and not nothing.
func countFindings(findings []hostagent.DocumentFinding) map[findingLabels]int {
	counts := map[findingLabels]int{}
	known := map[catalog.ID]bool{}
	for _, entry := range catalog.Entries() {
		counts[findingLabels{entry.ID, entry.Severity, hostagent.Open}] = 0
		known[entry.ID] = true
	}
	for _, f := range findings {
		if known[f.ID] && slices.Contains(states(), f.State) && slices.Contains(severities(), f.Severity) {
			counts[findingLabels{f.ID, f.Severity, f.State}]++
		}
	}
	return counts
}

// countPorts counts ports that are written as in "21000-21002, 21010", or "none".
func countPorts(text string) (int, error) {
	if text == "none" {
		return 0, nil
	}
	count := 0
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("cannot count the ports %q: %w", text, err)
		}
		last, err := strconv.ParseUint(high, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("cannot count the ports %q: %w", text, err)
		}
		if last < first {
			return 0, fmt.Errorf("cannot count the ports %q: %d comes before %d", text, last, first)
		}
		count += int(last-first) + 1
	}
	return count, nil
}

// seconds writes t as Unix time, which is 0 for never.
func seconds(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// drops reads the counters of the guard's rules, one reader at a time, and keeps what it read for a while: failures too,
// because those may be dearer.
type drops struct {
	read func(context.Context) (map[string]uint64, error)
	turn chan struct{} // holds an element while somebody reads; guards what follows

	at     time.Time
	values map[string]uint64
	err    error
}

func newDrops(read func(context.Context) (map[string]uint64, error)) *drops {
	return &drops{read: read, turn: make(chan struct{}, 1)}
}

// get returns after 2 s at the latest, even where reading does not end. The map is only read.
func (d *drops) get(ctx context.Context) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, dropsDeadline)
	defer cancel()
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot read the guard's counters: they are still being read: %w", ctx.Err())
	}
	if !d.at.IsZero() && time.Since(d.at) < dropsKept {
		values, err := d.values, d.err
		<-d.turn
		return values, err
	}
	type answer struct {
		values map[string]uint64
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		values, err := d.read(ctx)
		if !errors.Is(ctx.Err(), context.Canceled) { // else the reader has gone, which says nothing of the counters
			d.values, d.err, d.at = values, err, time.Now()
		}
		<-d.turn
		answers <- answer{values, err}
	}()
	select {
	case a := <-answers:
		return a.values, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot read the guard's counters in time: %w", ctx.Err())
	}
}
