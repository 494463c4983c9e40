// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	kvset "github.com/hostagent/hostagent/hostagent/settings"
)

// kvSource is where settings of Consul's KV come from, and what is known of them.
type kvSource struct {
	place    hostagent.SavedSettings // without entries; without a machine where that cannot be told
	stateDir string
	client   *consul.Client // for one goroutine: Follow's, from start on
	keeper   *kvset.Keeper
	answers  chan kvset.Answer
	started  bool // what follows the keys
	stop     func()
	broken   error // why parts could not be built of settings that are valid
}

// newKV returns where c says that settings come from, nil where it says none.
func (d *daemon) newKV(c *config.Config) (*kvSource, error) {
	if c.KVPrefix == "" {
		return nil, nil
	}
	options, err := consulOptions(c)
	if err != nil {
		return nil, configError(err)
	}
	client, err := consul.New(options)
	if err != nil {
		return nil, configError(err)
	}
	kv := &kvSource{
		place: placeOf(c), stateDir: c.StateDir, client: client, answers: make(chan kvset.Answer),
	}
	kv.stop = client.Close
	kv.keeper = kvset.NewKeeper(func(under []config.Document) error { return d.apply(kv, under) }, d.save(kv))
	if kv.stateDir != "" {
		if kv.place.Machine, err = hostagent.MachineFingerprint(hostagent.MachineIDFile); err != nil {
			d.log.Warn("settings of Consul's KV are not kept for the next start", "error", err)
		}
	}
	return kv, nil
}

// placeOf is where c says that settings lie, of no machine.
func placeOf(c *config.Config) hostagent.SavedSettings {
	return hostagent.SavedSettings{Prefix: c.KVPrefix, Namespace: c.Consul.Namespace, Partition: c.Consul.Partition}
}

// at tells whether c asks for the keys that kv holds.
func (kv *kvSource) at(c *config.Config) bool {
	place := placeOf(c)
	return kv != nil && kv.place.Prefix == place.Prefix && kv.place.Namespace == place.Namespace && kv.place.Partition == place.Partition
}

// start begins to follow the keys, until ctx ends or stop is called, which waits for that.
func (kv *kvSource) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer kv.client.Close()
		ask := func(ctx context.Context, index uint64) (consul.KV, error) {
			return kv.client.KV(ctx, kv.place.Prefix, index)
		}
		kvset.Follow(ctx, ask, func(a kvset.Answer) {
			select {
			case kv.answers <- a:
			case <-ctx.Done():
			}
		})
	}()
	kv.started = true
	kv.stop = func() {
		cancel()
		<-done
	}
}

// heard is where answers arrive; never for a kv that is nil.
func (kv *kvSource) heard() <-chan kvset.Answer {
	if kv == nil {
		return nil
	}
	return kv.answers
}

// apply has the agent work as the files say with documents under them.
func (d *daemon) apply(kv *kvSource, under []config.Document) error {
	c, err := d.settings.loadOver(under)
	kv.broken = nil
	switch {
	case err != nil:
		return err
	case c.Mode == "":
		return errNoMode
	}
	if !kv.at(c) {
		return errors.New("the files name another kv_prefix, namespace or partition than when they were read; systemctl reload hostagent reads them again")
	}
	b, err := d.build(c, kv)
	if err != nil {
		kv.broken = err
		return err
	}
	d.log.Info("settings of Consul's KV are in use", "kv_prefix", kv.place.Prefix, "documents", len(under))
	d.deliver(b)
	return nil
}

// save returns what keeps entries for the next start. Without it that start waits for Consul: no reason not to use them.
func (d *daemon) save(kv *kvSource) func([]consul.KVEntry) {
	return func(entries []consul.KVEntry) {
		if kv.stateDir == "" || kv.place.Machine == "" {
			return
		}
		saved := kv.place
		saved.Entries = entries
		if err := hostagent.SaveSettings(kv.stateDir, &saved); err != nil {
			d.log.Warn("settings of Consul's KV are not kept for the next start", "error", err)
		}
	}
}

// saved returns the entries that an earlier run has kept; where there are none, the error is an fs.ErrNotExist.
func (kv *kvSource) saved() ([]consul.KVEntry, error) {
	if kv.stateDir == "" {
		return nil, fs.ErrNotExist
	}
	saved, err := hostagent.LoadSettings(kv.stateDir, kv.place)
	if err != nil {
		return nil, err
	}
	return saved.Entries, nil
}

// first returns what the agent begins with: nil where its settings are to be waited for.
func (d *daemon) first() (*built, error) {
	local, err := d.settings.load()
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	d.level.Set(local.LogLevel)
	d.log, d.format = newLogger(d.settings.cmd.ErrOrStderr(), local.LogFormat, &d.level), local.LogFormat
	if d.kv, err = d.newKV(local); err != nil {
		return nil, err
	}
	if d.kv == nil {
		return d.assemble(nil, nil)
	}
	if lacksMode(local) {
		return nil, &exitError{exitConfig, errNoMode} // nothing that KV may hold can help
	}
	entries, err := d.kv.saved()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var b *built
	d.deliver = func(made *built) { b = made }
	if err == nil {
		err = d.kv.keeper.Resume(entries)
	}
	if d.kv.broken != nil {
		return nil, d.kv.broken
	}
	if err != nil {
		d.log.Warn("settings that were kept are not used", "error", err)
	}
	return b, nil
}

const (
	waitingAlive = time.Second // how often systemd is told while settings are waited for
	waitingLog   = time.Minute // how often the log is
	tryAnew      = time.Minute // how often what failed on this host is tried again
)

// await waits until settings are known and the agent can begin. Until then nothing opens or closes: who may connect to open
// ports is one of them. It returns nil when ctx ends.
func (d *daemon) await(ctx context.Context, hangup <-chan os.Signal) (*built, error) {
	var first *built
	d.deliver = func(b *built) { first = b }
	d.kv.start(ctx)
	tick := time.NewTicker(waitingAlive)
	defer tick.Stop()
	var logged time.Time
	for first == nil {
		waits := fmt.Sprintf("waits for the settings below %q in Consul's KV", d.kv.place.Prefix)
		reason := d.kv.keeper.Reason()
		if reason != nil {
			if time.Since(logged) >= waitingLog {
				logged = time.Now()
				d.log.Warn(waits, "reason", reason)
			}
			waits += ": " + reason.Error()
		}
		d.notify.Alive(waits)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-hangup:
			d.notify.Reloading()
			b, err := d.reread(ctx, true)
			if err != nil {
				d.log.Error("configuration not reloaded, the old one stays", "error", err)
			}
			d.notify.Reloaded(err)
			if b != nil {
				return b, nil
			}
		case a := <-d.kv.heard():
			d.kv.keeper.Heard(a)
			if d.kv.broken != nil {
				return nil, d.kv.broken
			}
		case <-tick.C:
		}
	}
	return first, nil
}

// follow has the agent work as the files and Consul's KV say from now on: it reads the files again at each signal, and
// hears what changes in the KV. What is wrong is shown, and the old configuration stays.
func (d *daemon) follow(ctx context.Context, hangup <-chan os.Signal, reload chan<- hostagent.Parts) {
	d.deliver = func(b *built) {
		select {
		case reload <- b.parts:
			d.servers.change(b)
		case <-ctx.Done():
		}
	}
	if d.kv != nil && !d.kv.started {
		d.kv.start(ctx)
	}
	defer func() { d.turnTo(ctx, nil) }()
	again := time.NewTicker(tryAnew)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-d.kv.heard():
			d.kv.keeper.Heard(a)
		case <-again.C:
			if d.kv != nil {
				d.kv.keeper.Again()
			}
		case <-hangup:
			d.notify.Reloading()
			next, err := d.reread(ctx, false)
			d.servers.reloaded(err)
			if err != nil {
				d.log.Error("configuration not reloaded, the old one stays", "error", err)
			} else {
				d.deliver(next)
			}
			d.notify.Reloaded(err)
		}
	}
}

// turnTo follows the keys of next, nil for none, in place of those that were followed.
func (d *daemon) turnTo(ctx context.Context, next *kvSource) {
	if d.kv != nil {
		d.kv.stop()
	}
	if d.kv = next; next != nil {
		next.start(ctx)
	}
}

// reread reads the configuration again, under which the settings of Consul's KV stay that are in use. Those of another prefix
// are read first: while they are not known, the old configuration stays. Where none are known yet, waiting goes on with
// the new files, and what is returned is nil.
func (d *daemon) reread(ctx context.Context, waiting bool) (*built, error) {
	local, err := d.settings.load()
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	next, err := d.newKV(local)
	if err != nil {
		return nil, err
	}
	switch {
	case next == nil:
		b, err := d.assemble(nil, nil)
		if err == nil {
			d.turnTo(ctx, nil)
		}
		return b, err
	case lacksMode(local):
		next.stop()
		return nil, &exitError{exitConfig, errNoMode}
	case waiting:
		d.level.Set(local.LogLevel)
		d.turnTo(ctx, next)
		return nil, nil
	}
	b, err := d.anew(ctx, local, next)
	if err != nil {
		next.stop()
		return nil, err
	}
	d.turnTo(ctx, next)
	return b, nil
}

// anew builds what the files say over the settings of next.
func (d *daemon) anew(ctx context.Context, local *config.Config, next *kvSource) (*built, error) {
	same := d.kv.at(local)
	var entries []consul.KVEntry
	if same {
		entries, _ = d.kv.keeper.Good()
	} else {
		kv, err := next.client.KV(ctx, next.place.Prefix, 0)
		if err != nil {
			return nil, fmt.Errorf("the settings of Consul's KV are not known: %w", err)
		}
		entries = kv.Entries
	}
	documents, err := kvset.Documents(entries)
	if err != nil {
		return nil, err
	}
	b, err := d.assemble(next, documents)
	if err != nil {
		return nil, err
	}
	if same {
		next.keeper.Inherit(d.kv.keeper)
		return b, nil
	}
	next.keeper.Use(entries)
	d.save(next)(entries)
	return b, nil
}
