// SPDX-License-Identifier: MPL-2.0

package main

import (
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/config"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// ending writes what is to be done about a finding, or why nothing is.
func (s *screen) ending(indent, state, exemption, remedy string) {
	if state == string(hostagent.Exempt) {
		s.wrapped(indent+"exempt: ", exemption)
	} else {
		s.wrapped(indent+"remedy: ", remedy)
	}
}

func exemptions(c *config.Config) []hostagent.Exemption {
	var all []hostagent.Exemption
	for _, x := range c.Exemptions {
		all = append(all, hostagent.Exemption{
			Finding: catalog.ID(x.Finding), Service: x.Service, Port: x.Port, Executable: x.Executable, Reason: x.Reason,
			Firewall: x.Because == config.BecauseFirewall, Expires: x.Expires, Borrowed: x.FromKV && !c.KVMayEnforce,
		})
	}
	return all
}

// exemptionsText writes the exemptions of a configuration, a line each: whose word counts may be spread over many files.
func exemptionsText(c *config.Config, now time.Time) string {
	text := ""
	for _, x := range exemptions(c) {
		text += "exempt: " + x.What() + ": " + x.String()
		if x.Ended(now) {
			text += ", which is over"
		}
		text += "\n"
	}
	return text
}
