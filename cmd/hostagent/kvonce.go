// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"

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
		return c, []string{fmt.Sprintf("the settings below %q in Consul's KV do not count here, and what they exempt is shown as if it were not: %s",
			c.KVPrefix, catalog.CleanTo(err.Error(), 1000))}
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
