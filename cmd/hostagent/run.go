// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/status"
	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/systemd"
)

var errNoMode = errors.New(`choose a mode; there is no default, so that nothing is cut off by accident:
  mode = "observe"   reports what guard mode would do and owns no rule
  mode = "guard"     opens sidecar ports and closes the rest of the range
write one of these lines into ` + config.DefaultPath + `/hostagent.hcl, or use --mode`)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch this host, in the foreground, until SIGTERM",
		Long: `Watches the sidecars of this host and reports to Consul. In guard mode it manages the firewall too; its rules
stay in place when it stops (hostagent firewall remove takes them away). SIGHUP reloads the configuration; SIGTERM and
SIGINT end it in good order, a second one at once.

With kv_prefix it follows the settings of a fleet in Consul's KV, too: a change counts at once, and one that is wrong leaves
the last good ones in use. Those are kept in state_dir; where none are kept it begins with the first answer, and until
then opens and closes nothing.

It refuses to start beside a Consul agent older than ` + consul.MinVersion + `; without any agent it starts and waits for one.

Exit status: 0 stopped by a signal, 78 the configuration is wrong and trying again cannot help, 2 anything else.`,
		Example: `  hostagent run --mode observe
  hostagent run --config /etc/hostagent.d`,
		Args: noArguments,
	}
	keys := consulKeys()
	keys["mode"] = "`mode` to work in: observe or guard"
	keys["log-level"] = "`level` of the log: debug, info, warn or error"
	keys["log-format"] = "`format` of the log: text or json"
	s := addSettings(cmd, keys)
	completeFlag(cmd, "mode", string(config.ModeObserve), string(config.ModeGuard))
	completeFlag(cmd, "log-level", "debug", "info", "warn", "error")
	completeFlag(cmd, "log-format", string(config.LogText), string(config.LogJSON))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), s) }
	return cmd
}

// daemon is what outlives a reload of the configuration.
type daemon struct {
	settings *settings
	level    slog.LevelVar
	servers  servers
	notify   *systemd.Notifier

	// The firewall of the last configuration, and how it was made: what it knows of the kernel is worth keeping.
	firewall *firewall.Firewall
	options  firewall.Options
	// What knows of sockets, and holds a program in the kernel for that.
	owners    *sockets.Owners
	elsewhere *sockets.Elsewhere
	audits    sharedOwners // of sockets, for audits

	// What the settings of Consul's KV come from, nil where kv_prefix is off, and what takes a configuration that they change.
	kv      *kvSource
	deliver func(*built)
	log     *slog.Logger // of the last good configuration
	format  config.LogFormat
}

// built is what one reading of the configuration makes.
type built struct {
	config   *config.Config
	parts    hostagent.Parts
	firewall *firewall.Firewall // nil in observe mode, where the host has none
	metrics  netip.AddrPort
	format   config.LogFormat
}

// assemble reads the configuration and builds all of a running agent's parts. Entries of kv count under the files; kv is nil
// where there are none.
func (d *daemon) assemble(kv *kvSource, under []config.Document) (*built, error) {
	c, err := d.settings.loadOver(under)
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	if c.Mode == "" {
		return nil, &exitError{exitConfig, errNoMode}
	}
	return d.build(c, kv)
}

// build builds all of a running agent's parts.
func (d *daemon) build(c *config.Config, kv *kvSource) (*built, error) {
	log := newLogger(d.settings.cmd.ErrOrStderr(), c.LogFormat, &d.level)
	p, err := parts(c, log)
	if err != nil {
		return nil, configError(err)
	}
	if d.owners == nil {
		d.owners, d.elsewhere = sockets.NewOwners(), sockets.NewElsewhere()
	}
	p.Owners, p.Elsewhere = d.owners, d.elsewhere.List
	b := &built{config: c, parts: p, metrics: c.Metrics.Address, format: c.LogFormat}
	if kv != nil {
		b.parts.Settings, b.parts.SettingsFrom = kv.keeper.Problem, kv.place.Prefix
	}
	b.firewall, err = d.openFirewall(firewallOptions(c))
	switch {
	case err == nil:
		b.parts.Firewall, b.parts.Backend, b.parts.Degradations = b.firewall, b.firewall.Backend(), b.firewall.Degradations()
		useFirewall(&b.parts, b.firewall)
		b.parts.Foreign = b.firewall.Watch
	case c.Mode == config.ModeGuard:
		return nil, err
	default:
		b.parts.Degradations = []string{fmt.Sprintf("rules of an earlier guard run cannot be seen or removed: %v", err)}
	}
	if c.Audit {
		if b.parts.Audit, err = d.hourlyAudit(c, &b.parts); err != nil {
			return nil, configError(err)
		}
	}
	if b.parts.StateDir != "" && c.Mode == config.ModeGuard {
		if b.parts.Machine, err = hostagent.MachineFingerprint(hostagent.MachineIDFile); err != nil {
			b.parts.Degradations = append(b.parts.Degradations, fmt.Sprintf("nothing is saved for the next start of this host: %v", err))
		}
	}
	b.parts.Degradations = append(slices.Clip(b.parts.Degradations), p.Notes...)
	for _, reason := range b.parts.Degradations {
		log.Warn("degraded", "reason", reason)
	}
	b.parts.Watch, b.parts.Listened, b.parts.Alive = d.servers.metrics, sockets.Watch, d.notify.Alive
	if b.parts.Namespace, err = hostagent.NetworkNamespace(); err != nil {
		log.Warn("degraded", "reason", "status cannot tell the network namespace", "error", err)
	}
	d.level.Set(c.LogLevel)
	d.log, d.format = log, c.LogFormat
	return b, nil
}

// configError is why no connection to Consul can be made: nothing that another start would help, but for the token's file,
// which may be written after hostagent starts at boot.
func configError(err error) error {
	if consul.KindOf(err) == consul.KindToken {
		return err
	}
	return &exitError{exitConfig, err}
}

// openFirewall looks anew at what this host's firewall can be made with. Where that is as before, it returns the Firewall
// that is in use.
func (d *daemon) openFirewall(options firewall.Options) (*firewall.Firewall, error) {
	fw, err := firewall.New(options)
	if err != nil {
		return nil, err
	}
	same := d.firewall != nil && options == d.options && fw.Backend() == d.firewall.Backend() &&
		slices.Equal(fw.Degradations(), d.firewall.Degradations())
	if !same {
		d.firewall, d.options = fw, options
	}
	return d.firewall, nil
}

func runAgent(ctx context.Context, s *settings) error {
	// One thread of Go at a time is plenty for a loop that mostly waits, and saves a quarter of its idle cost.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	// The guard outlives whoever reads its log; Go would end a process that writes to a closed pipe on stderr.
	signal.Ignore(syscall.SIGPIPE)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // first of all: a reload during a slow start must not end the process

	d := &daemon{settings: s}
	// Before any program is started, and before there is a configuration to log as it says.
	d.notify = systemd.NewNotifier(func(err error) {
		newLogger(s.cmd.ErrOrStderr(), config.LogText, &d.level).Warn("systemd is not told", "error", err)
	})
	d.servers.metrics = status.NewMetrics(d.servers.sources())
	first, err := d.first()
	if err != nil {
		return err
	}
	d.servers.metrics.Configured(true)
	if err := d.run(ctx, first, hangup); err != nil && d.format == config.LogJSON {
		d.log.Error("cannot run", "error", err) // who reads JSON gets no other lines
		return &exitError{status: exitFailure}
	} else if err != nil {
		return err
	}
	return nil
}

// run runs an agent until a signal ends it. First is nil where its settings are to be waited for.
func (d *daemon) run(ctx context.Context, first *built, hangup <-chan os.Signal) error {
	lock, err := hostagent.AcquireLock(hostagent.RuntimeDir)
	if _, isHeld := errors.AsType[*hostagent.HeldError](err); isHeld {
		return fmt.Errorf("%w; stop that one first", err)
	}
	if err != nil {
		return err
	}
	defer lock.Release() //nolint:errcheck // the process ends, and with it the lock
	_ = lock.Claim()     // without it a later "firewall restore" takes what was saved last, which is the same

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	program := &program{
		run:    func() error { return d.work(ctx, first, hangup) },
		notify: d.notify, cancel: cancel, done: make(chan error, 1),
	}
	svc, err := service.New(program, &service.Config{Name: "hostagent", Option: service.KeyValue{"RunWait": program.wait}})
	if err != nil {
		return fmt.Errorf("cannot use this host's service manager: %w", err)
	}
	return svc.Run()
}

// work runs the agent until ctx ends, once its settings are known.
func (d *daemon) work(ctx context.Context, first *built, hangup <-chan os.Signal) error {
	if first == nil {
		var err error
		if first, err = d.await(ctx, hangup); first == nil {
			return err
		}
	}
	if err := first.parts.RefuseOld(ctx); err != nil {
		return err // not exitConfig: another start may help, once Consul is upgraded
	}
	agent := hostagent.NewAgent(first.parts)
	d.servers.start(agent, first)
	defer d.servers.close()
	reload := make(chan hostagent.Parts)
	go d.follow(ctx, hangup, reload)
	return agent.Run(ctx, reload)
}

// program is what package service starts and stops, under whatever manages services on this host.
type program struct {
	run    func() error
	notify *systemd.Notifier
	cancel context.CancelFunc
	done   chan error
}

// Start begins to run and returns.
func (p *program) Start(service.Service) error {
	go func() { p.done <- p.run() }()
	return nil
}

// wait returns when a signal asks for the end, or the agent ended by itself. From then on signals do what they do to any
// process: whoever sends a second one will not wait for the first.
func (p *program) wait() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Reset(syscall.SIGTERM, os.Interrupt)
	select {
	case <-signals:
	case err := <-p.done:
		p.done <- err
	}
}

// Stop ends the agent and waits for it.
func (p *program) Stop(service.Service) error {
	p.notify.Stopping()
	p.cancel()
	return <-p.done
}
