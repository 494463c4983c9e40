// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

func anonymousRights([]string) []consul.Right {
	return []consul.Right{{Resource: "service", Segment: "", Access: "write"}}
}

func readInstanceTokens(string, Seen[*configdir.Config]) Seen[[]InstanceToken] {
	return Unseen[[]InstanceToken]("it is not read", "")
}
