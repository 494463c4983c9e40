// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// view is what the loop leaves for readers after each pass. It is never changed once it is stored, and what it points to
// is only read. It is small, because there is a new one every second.
type view struct {
	mode         Mode
	allowFrom    []netip.Prefix
	allowCluster bool
	pathsFrom    []string // who may connect to exposed paths, in the operator's words
	version      string
	backend      string
	address      string // of the Consul agent
	degradations []string
	started      time.Time
	passes       int
	namespace    uint64
	passAt       time.Time
	passTook     time.Duration

	agent       consul.Agent
	answers     int
	answerAt    time.Time
	consulErr   error
	listenErr   error
	membersErr  error
	networksErr error
	reportErr   error
	settled     bool
	applyAt     time.Time
	changeAt    time.Time
	applyErr    error
	repairs     int
	result      *Result
	holds       *standing
	incomplete  string // what kept owners out of sight
	host        *Host
	hears       bool    // of listeners as they appear
	troubles    []error // beside those of the steps; nil among them
	wakeup      WakeupState
	wakeupErr   error    // why it is off or fails
	elsewhere   []string // what is not known of other network namespaces
	audited     bool     // the checklist is looked at now and then
	audit       *audit.Report
	auditAt     time.Time
	settings    StatusSettings
}

// publish leaves a view of the pass that began at start for readers.
func (a *Agent) publish(start time.Time, consulErr, reportErr error) {
	a.passes++
	v := a.viewOf(start, time.Since(start), consulErr, reportErr)
	a.view.Store(v)
	a.alive(v.summary())
}

func (a *Agent) viewOf(start time.Time, took time.Duration, consulErr, reportErr error) *view {
	hears, hearErr := a.ears.state()
	wakeup, wakeupErr := a.wakeup.shown()
	p := &a.parts.Policy
	return &view{
		mode: p.Mode, allowFrom: p.AllowFrom, allowCluster: p.AllowCluster,
		pathsFrom: sourceTexts(p.ExposedPathsCluster, p.ExposedPathsFrom),
		version:   a.parts.Version, backend: a.parts.Backend, address: a.parts.Address, degradations: a.parts.Degradations,
		namespace: a.parts.Namespace, started: a.started, passes: a.passes, passAt: start, passTook: took,

		agent: a.facts, answers: a.memory.answers, answerAt: a.answerAt, settled: a.memory.settled,
		consulErr: a.news.standing("consul", consulErr), reportErr: a.news.standing("report", reportErr),
		listenErr: a.listenErr, membersErr: a.sources.membersErr, networksErr: a.sources.networksErr,
		applyAt: a.applyAt, changeAt: a.changeAt, applyErr: a.applyErr, repairs: a.repairs,
		result: a.shown, holds: a.holds, incomplete: a.incomplete, host: a.host,
		hears: hears, wakeup: wakeup, wakeupErr: wakeupErr, elsewhere: a.elsewhere.degradations(),
		audited: a.parts.Audit != nil, audit: a.audits.report, auditAt: a.audits.at,
		settings: StatusSettings{StatusStep{ErrorText(a.settings)}, a.parts.SettingsFrom},
		troubles: []error{
			a.stateErr, a.publisher.err, a.blocks.err, hearErr, a.prober.trouble(), a.news.last("certificates"),
		},
	}
}

// Status is what a running hostagent says of itself, for programs. Namespace is the inode of the network namespace that it
// works in. SchemaVersion grows when a field changes meaning or goes; fields may be added without. No list in it is null; a
// time that never was is null.
type Status struct {
	SchemaVersion int               `json:"schema_version"`
	Version       string            `json:"hostagent_version"`
	GoVersion     string            `json:"go_version"`
	Mode          Mode              `json:"mode"`
	Started       *time.Time        `json:"started"`
	Namespace     uint64            `json:"network_namespace"`
	Configuration StatusStep        `json:"configuration"`
	Settings      StatusSettings    `json:"settings"`
	Pass          StatusPass        `json:"pass"`
	Consul        StatusConsul      `json:"consul"`
	Listeners     StatusListeners   `json:"listeners"`
	Firewall      StatusFirewall    `json:"firewall"`
	Report        StatusStep        `json:"report"`
	Audit         StatusAudit       `json:"audit"`
	SidecarRange  string            `json:"sidecar_range"`
	Openings      []DocumentOpening `json:"openings"`
	Findings      []DocumentFinding `json:"findings"`
	Degradations  []string          `json:"degradations"`
}

// StatusPass is the loop. Duration is that of the last pass in seconds.
type StatusPass struct {
	Count    int        `json:"count"`
	Last     *time.Time `json:"last"`
	Duration float64    `json:"duration_seconds"`
}

// StatusStep tells whether a step fails at present; Error is empty where it does not.
type StatusStep struct {
	Error string `json:"error"`
}

// StatusSettings is where settings for a fleet come from: the prefix of keys in Consul's KV, "" for none. Error says why what
// stands there now is not in use, but what was good last.
type StatusSettings struct {
	StatusStep
	Prefix string `json:"prefix"`
}

// StatusListeners is how listeners are found. Events tells that they are heard of as they appear, not by polling only.
type StatusListeners struct {
	StatusStep
	Events bool `json:"events"`
}

// StatusConsul is the local Consul agent, as far as it told. Error says why the last whole answer stands.
type StatusConsul struct {
	Address         string     `json:"address"`
	Node            string     `json:"node"`
	Datacenter      string     `json:"datacenter"`
	Version         string     `json:"version"`
	WholeAnswers    int        `json:"whole_answers"`
	LastWholeAnswer *time.Time `json:"last_whole_answer"`
	Error           string     `json:"error"`
	// Wakeup says whether changes of the catalog wake the loop. That it fails is no failure of hostagent.
	Wakeup StatusWakeup `json:"catalog_wakeup"`
}

// StatusWakeup is how soon registrations are seen. Reason says why they are seen at poll_interval only; it is empty where
// State is WakeupWaiting or WakeupStarting.
type StatusWakeup struct {
	State  WakeupState `json:"state"`
	Reason string      `json:"reason"`
}

// StatusAudit is the last audit of this host. Score counts the items of the checklist by each thing that can be found of one,
// all 0 before the first audit; Failing are those that fail.
type StatusAudit struct {
	Enabled bool                 `json:"enabled"`
	Last    *time.Time           `json:"last"`
	Score   map[audit.Status]int `json:"score"`
	Failing []catalog.ID         `json:"failing"`
}

func statusAudit(v *view) StatusAudit {
	s := StatusAudit{Enabled: v.audited, Last: when(v.auditAt), Score: map[audit.Status]int{}, Failing: []catalog.ID{}}
	for _, status := range audit.Statuses() {
		s.Score[status] = 0
	}
	if v.audit == nil {
		return s
	}
	for i := range v.audit.Rows {
		row := &v.audit.Rows[i]
		s.Score[row.Status]++
		if row.Status == audit.Fail {
			s.Failing = append(s.Failing, row.ID)
		}
	}
	return s
}

// StatusFirewall is what the kernel holds, or in observe mode would hold. Guarded and Open are ports as in "21000-21002, 21010",
// or "none"; of those in Cut running connections end too. AllowFrom is who may connect in the operator's words, empty for
// everybody, and Sources how many networks and addresses that is. Settled is false until enough whole answers were seen to close anything.
type StatusFirewall struct {
	Backend   string   `json:"backend"`
	Guarded   string   `json:"guarded"`
	Open      string   `json:"open"`
	Cut       string   `json:"cut"`
	AllowFrom []string `json:"allow_from"`
	Sources   int      `json:"sources"`
	// ExposedPaths are the ports that only ExposedPathsFrom, in the operator's words, may reach; empty for nobody.
	ExposedPaths     string     `json:"exposed_paths"`
	ExposedPathsFrom []string   `json:"exposed_paths_from"`
	Settled          bool       `json:"settled"`
	LastApply        *time.Time `json:"last_apply"`
	LastChange       *time.Time `json:"last_change"`
	Repairs          int        `json:"repairs"`
	Error            string     `json:"error"`
	// Quarantined are the ports that are closed because an application is exposed on them, by port.
	Quarantined []DocumentQuarantine `json:"quarantined"`
}

// Status tells how the agent is. It may be called at any time from any goroutine and never waits for a pass; before the
// first one has ended most of it is empty.
func (a *Agent) Status() Status {
	v := a.view.Load()
	s := Status{
		SchemaVersion: 1, Version: v.version, GoVersion: runtime.Version(), Mode: v.mode, Started: when(v.started), Namespace: v.namespace,
		Settings: v.settings,
		Pass:     StatusPass{Count: v.passes, Last: when(v.passAt), Duration: v.passTook.Seconds()},
		Consul: StatusConsul{
			Address: v.address, Node: v.agent.Node, Datacenter: v.agent.Datacenter, Version: v.agent.Version,
			WholeAnswers: v.answers, LastWholeAnswer: when(v.answerAt), Error: ErrorText(v.consulErr),
			Wakeup: StatusWakeup{State: v.wakeup, Reason: ErrorText(v.wakeupErr)},
		},
		Listeners: StatusListeners{StatusStep{ErrorText(v.listenErr)}, v.hears},
		Firewall: StatusFirewall{
			Backend: v.backend, AllowFrom: sourceTexts(v.allowCluster, v.allowFrom), ExposedPathsFrom: append([]string{}, v.pathsFrom...),
			Settled: v.settled, LastApply: when(v.applyAt), LastChange: when(v.changeAt), Repairs: v.repairs, Error: ErrorText(v.applyErr),
		},
		Report:       StatusStep{Error: ErrorText(v.reportErr)},
		Audit:        statusAudit(v),
		SidecarRange: v.result.Range.String(),
		Openings:     documentOpenings(v.result.Openings), Findings: documentFindings(v.result.Findings),
		Degradations: append([]string{}, v.degradations...),
	}
	nameDevices(v.result.Devices, s.Findings)
	if v.consulErr == nil {
		s.Consul.Error = ErrorText(v.membersErr)
	}
	holds := v.holds
	if v.mode != ModeGuard { // owns nothing: what it would hold
		holds = standingAs(&v.result.Rules)
	}
	s.Firewall.Sources = len(holds.sources)
	if v.networksErr != nil {
		s.Degradations = append(s.Degradations, v.networksErr.Error())
	}
	s.Firewall.ExposedPaths = holds.paths.String()
	s.Firewall.Guarded, s.Firewall.Open, s.Firewall.Cut = holds.guard.String(), holds.open.String(), holds.cut.String()
	s.Firewall.Quarantined = documentQuarantine(slices.DeleteFunc(slices.Clone(v.result.Quarantined), func(q Quarantined) bool {
		return !holds.cut.Has(q.Port)
	}))
	if v.incomplete != "" {
		s.Degradations = append(s.Degradations, v.incomplete)
	}
	for _, err := range v.troubles {
		if err != nil {
			s.Degradations = append(s.Degradations, err.Error())
		}
	}
	if v.answers > 0 && !v.agent.VersionKnown() {
		s.Degradations = append(s.Degradations, unknownVersion)
	}
	s.Degradations = append(s.Degradations, v.result.Unprobed...)
	s.Degradations = append(s.Degradations, v.elsewhere...)
	if v.host != nil {
		s.Degradations = append(s.Degradations, v.host.Notes...)
	}
	for i, text := range s.Degradations {
		s.Degradations[i] = catalog.CleanTo(text, maxNote)
	}
	slices.Sort(s.Degradations)
	return s
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// ErrorText is what err says, clean for every reader but for the line breaks between joined errors, of which each is shown by
// itself; "" for none.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	var lines []string
	left := maxNote
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if left <= 0 {
			lines = append(lines, "…")
			break
		}
		lines = append(lines, catalog.CleanTo(line, left))
		left -= utf8.RuneCountInString(line)
	}
	return strings.Join(lines, "\n")
}
