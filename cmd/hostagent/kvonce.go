// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	kvset "github.com/hostagent/hostagent/hostagent/settings"
)

// overKV returns c, which s has loaded, with the settings of Consul's KV under the files, as the service has them. Where they
// cannot be had c stands, and notes say so: that shows what is exempt as if it were not, and nothing less.
func (s *settings) overKV(ctx context.Context, c *config.Config) (over *config.Config, notes []string) {
	if c.KVPrefix == "" {
		return c, nil
	}
	over, err := s.readKV(ctx, c)
	if err != nil {
		return c, []string{fmt.Sprintf("the settings below %q in Consul's KV do not count here: what they exempt is shown as if it were not, "+
			"and the mode and who may connect are those of the files alone: %s", c.KVPrefix, catalog.CleanTo(err.Error(), 1000))}
	}
	return over, nil
}

func (s *settings) readKV(ctx context.Context, c *config.Config) (*config.Config, error) {
	options, err := consulOptions(c)
	if err != nil {
		return nil, err
	}
	client, err := consul.New(options)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	kv, err := client.KV(ctx, c.KVPrefix, 0)
	if err != nil {
		return nil, err
	}
	documents, err := kvset.Documents(kv.Entries)
	if err != nil {
		return nil, err
	}
	return s.loadOver(documents)
}

// overKept returns c, which s has loaded, with the settings of Consul's KV under the files that the last run has kept, as the
// service begins with them: before Consul is up there are no others. Where there are none c stands; where they cannot be
// used it does too, and note says why.
func (s *settings) overKept(c *config.Config) (over *config.Config, note string) {
	if c.KVPrefix == "" {
		return c, ""
	}
	over, err := s.readKept(c)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, ""
	case err != nil:
		return c, fmt.Sprintf("the settings below %q in Consul's KV do not count: %s\n", c.KVPrefix, catalog.CleanTo(err.Error(), 1000))
	}
	return over, ""
}

func (s *settings) readKept(c *config.Config) (*config.Config, error) {
	kv := kvSource{place: placeOf(c), stateDir: c.StateDir}
	kv.place.Machine, _ = hostagent.MachineFingerprint(hostagent.MachineIDFile) // what is kept is refused without it
	entries, err := kv.saved()
	if err != nil {
		return nil, err
	}
	documents, err := kvset.Documents(entries)
	if err != nil {
		return nil, err
	}
	return s.loadOver(documents)
}
