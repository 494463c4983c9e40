// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"maps"
	"sync"
)

// Explain returns what is told of a finding or an item beside its entry.
func Explain(id ID) (Explanation, bool) {
	e, ok := explanations()[id]
	return e, ok
}

// explanations returns those of all findings and items, which nobody changes.
var explanations = sync.OnceValue(func() map[ID]Explanation {
	all := findingExplanations()
	maps.Copy(all, itemExplanations())
	return all
})
