// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"

	"github.com/hostagent/hostagent/firewall"
)

// bare is the firewall of a simulated host in observe mode: it can be looked at, and holds nothing.
type bare struct{}

func (bare) Apply(context.Context, firewall.Ruleset) (firewall.Changes, error) {
	return firewall.Changes{}, nil
}
func (bare) Plan(context.Context, firewall.Ruleset) (firewall.Changes, error) {
	return firewall.Changes{}, nil
}
func (bare) Show(context.Context) (firewall.State, error)     { return firewall.State{}, nil }
func (bare) Remove(context.Context) (firewall.Changes, error) { return firewall.Changes{}, nil }
