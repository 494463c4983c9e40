// SPDX-License-Identifier: MPL-2.0

package status

import (
	"context"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// Sources is what metrics are made of.
type Sources struct {
	Version string // of hostagent
	// Status is called at every scrape, from several goroutines.
	Status func() hostagent.Status
	// Dropped reads how many SYNs the guard's rules have dropped, by family ("ipv4", "ipv6"). It is called at most every
	// 5 s, never twice at once, and should give up when ctx ends (after 2 s). Nil: nobody counts.
	Dropped func(ctx context.Context) (map[string]uint64, error)
}

// Metrics counts what the loop does and shows it with the status to Prometheus. It is a watcher of hostagent.Parts; all of
// its methods may be called from any goroutine. Names and labels are API, and every label takes its values from a closed
// list:
//
//   - hostagent_pass_duration_seconds{step}: histogram; step is consul, listeners, evaluate, apply, report, or pass for all
//     of a pass, so that a sum over the steps counts twice
//   - hostagent_open_ports, hostagent_guarded_ports, hostagent_quarantined_ports: what the kernel holds, or in observe mode
//     would hold
//   - hostagent_mode{mode}: 1 for the mode in force, 0 for the other; both 0 before the first pass
//   - hostagent_findings{id, severity, state}: how many there are. Each id of the catalog is there, with its usual severity
//     and state open, at 0 too
//   - hostagent_firewall_repairs_total: how often somebody else's change of our rules or sets was put right
//   - hostagent_consul_errors_total{kind}: requests that brought no whole answer
//   - hostagent_guard_dropped_syns_total{family}: from the counters of the rules, at most 5 s old; left out when they
//     cannot be read
//   - hostagent_listen_events: 1 while listeners are heard of as they appear, 0 while they are found by polling only
//   - hostagent_last_whole_answer_timestamp_seconds, hostagent_last_apply_timestamp_seconds,
//     hostagent_last_pass_timestamp_seconds: Unix time, 0 for never; observe mode never applies
//   - hostagent_step_failing{step}: 1 while the step consul, listeners, apply or report fails, or the settings in Consul's KV are
//     not those in use (step settings), 0 otherwise, for every step
//   - hostagent_degradations: how many things hostagent cannot do on this host, as hostagent status lists them
//   - hostagent_audit_items{status}: how many items of the production checklist the last audit found to be so: status is pass,
//     n/a, info, unknown, warn or fail, all 0 before the first
//   - hostagent_config_last_reload_successful: 1, or 0 while the configuration on disk is refused and an earlier one stands;
//     hostagent_config_last_reload_success_timestamp_seconds: when the one in force was read, at the start at first
//   - hostagent_scrape_errors_total: scrapes that had to leave something out
//   - hostagent_build_info{version, goversion}: 1
//   - process_* and go_* of the Prometheus client
type Metrics struct {
	registry *prometheus.Registry
	steps    map[string]prometheus.Observer
	repairs  prometheus.Counter
	reload   reloads
	kinds    map[consul.Kind]prometheus.Counter
	status   func() hostagent.Status
	drops    *drops // nil: nobody counts
	lacking  atomic.Uint64

	descriptions descriptions
}

// reloads tell of the configuration.
type reloads struct {
	successful, at prometheus.Gauge
}

// NewMetrics returns Metrics with a registry of their own. Nothing in sources is called before the first scrape.
func NewMetrics(sources Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(), status: sources.Status,
		steps: map[string]prometheus.Observer{}, kinds: map[consul.Kind]prometheus.Counter{},
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hostagent_firewall_repairs_total",
			Help: "Times that somebody else's change of hostagent's rules or sets was put right.",
		}),
		reload: reloads{
			successful: prometheus.NewGauge(prometheus.GaugeOpts{
				Name: "hostagent_config_last_reload_successful",
				Help: "1, or 0 while the configuration on disk is refused and an earlier one stands.",
			}),
			at: prometheus.NewGauge(prometheus.GaugeOpts{
				Name: "hostagent_config_last_reload_success_timestamp_seconds",
				Help: "Unix time at which the configuration in force was read, 0 for never.",
			}),
		},
		descriptions: describe(),
	}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "hostagent_pass_duration_seconds",
		Help: "Duration of the steps of a pass; step pass is all of it.",
		// From an Evaluate of a small host to the deadline of a pass.
		Buckets: []float64{.0001, .0005, .002, .01, .05, .2, 1, 5, 20},
	}, []string{"step"})
	for _, step := range steps() {
		m.steps[step] = durations.WithLabelValues(step)
	}
	consulErrors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hostagent_consul_errors_total",
		Help: "Requests to the Consul agent that brought no whole answer, by kind of failure.",
	}, []string{"kind"})
	for _, kind := range ConsulKinds() {
		m.kinds[kind] = consulErrors.WithLabelValues(string(kind))
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "hostagent_build_info",
		Help:        "1, with the versions of hostagent and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": catalog.Clean(sources.Version), "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(durations, m.repairs, m.reload.successful, m.reload.at, consulErrors, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if sources.Dropped != nil {
		m.drops = newDrops(sources.Dropped)
	}
	return m
}

// steps are those that the loop tells of.
func steps() []string {
	return []string{"consul", "listeners", "namespaces", "evaluate", "apply", "report", "pass"}
}

// ConsulKinds returns every kind of failure of package consul.
func ConsulKinds() []consul.Kind {
	return []consul.Kind{
		consul.KindUnreachable, consul.KindTimeout, consul.KindTLS, consul.KindToken, consul.KindDenied,
		consul.KindThrottled, consul.KindStatus, consul.KindFiltered, consul.KindMalformed, consul.KindTooOld,
		consul.KindImpostor, consul.KindNotLocal, consul.KindACLsOff, consul.KindMeshOff,
	}
}

func modes() []hostagent.Mode { return []hostagent.Mode{hostagent.ModeObserve, hostagent.ModeGuard} }

func states() []hostagent.State {
	return []hostagent.State{hostagent.Open, hostagent.Mitigated, hostagent.Exempt}
}

func severities() []catalog.Severity {
	return []catalog.Severity{catalog.Info, catalog.Warning, catalog.Critical}
}

func families() []string { return []string{"ipv4", "ipv6"} }

// Stepped counts a step of a pass. A step that is not in the list above is not counted.
func (m *Metrics) Stepped(step string, took time.Duration) {
	if observer, ok := m.steps[step]; ok {
		observer.Observe(took.Seconds())
	}
}

// Repaired counts a repair of the firewall.
func (m *Metrics) Repaired() { m.repairs.Inc() }

// ConsulFailed counts a request that brought no whole answer.
func (m *Metrics) ConsulFailed(kind consul.Kind) {
	if counter, ok := m.kinds[kind]; ok {
		counter.Inc()
	}
}

// Configured tells whether the configuration on disk was taken over just now, at the start or at a reload.
func (m *Metrics) Configured(taken bool) {
	if !taken {
		m.reload.successful.Set(0)
		return
	}
	m.reload.successful.Set(1)
	m.reload.at.SetToCurrentTime()
}

// Handler answers with all metrics in Prometheus' text format, whatever the path. A scrape takes at most 2 s more than the
// reader takes to read it.
func (m *Metrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		read := &scrape{descriptions: &m.descriptions, status: m.status(), lacking: &m.lacking}
		if m.drops != nil {
			read.dropped, read.droppedErr = m.drops.get(r.Context())
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(read)
		promhttp.HandlerFor(prometheus.Gatherers{m.registry, registry}, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
	})
}
