// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// AgentTrouble is why the last answer of the agent does not count, or why it was not asked, where that is a finding: its
// id and what fills its sentences. The zero value is no such trouble.
type AgentTrouble struct {
	ID     catalog.ID
	Reason string
	Fix    string // "" where the catalog says it
}

// agentTrouble returns the trouble that a failure of the agent is, zero for failures that are no finding.
func agentTrouble(err error) AgentTrouble {
	failure, ok := errors.AsType[*consul.Error](err)
	if !ok {
		return AgentTrouble{}
	}
	switch failure.Kind {
	case consul.KindFiltered:
		return AgentTrouble{ID: catalog.RegistrationsFiltered, Reason: failure.Err.Error()}
	case consul.KindImpostor:
		return AgentTrouble{ID: catalog.AgentImpostor, Reason: failure.Err.Error(), Fix: failure.Fix}
	case consul.KindNotLocal:
		return AgentTrouble{ID: catalog.AgentNotLocal, Reason: failure.Err.Error(), Fix: failure.Fix}
	default:
		return AgentTrouble{}
	}
}

// judgeAgent tells of an agent whose answers do not count.
func (e *evaluation) judgeAgent() {
	if t := e.in.Trouble; t.ID != "" {
		e.find(Finding{ID: t.ID}, "reason", t.Reason, "fix", t.Fix)
	}
}

// silent tells whether nothing may be sent to the agent after such a failure, reports neither.
func silent(err error) bool {
	kind := consul.KindOf(err)
	return kind == consul.KindImpostor || kind == consul.KindNotLocal
}
