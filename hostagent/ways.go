// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// ways lists the addresses of this host at which the network reaches a listener, as far as they are known.
func (e *evaluation) ways(l *sockets.Listener) []Way {
	if e.in.Host == nil {
		return nil
	}
	var ways []Way
	for _, addr := range e.in.Host.Addresses {
		if !addr.IsLoopback() && l.Covers(addr) {
			ways = append(ways, Way{Addr: addr})
		}
	}
	return ways
}

// waysText writes ways for a sentence: "it at 10.0.0.5 (eth0) and fd00::5 (eth0)", "it" where none is known.
func waysText(ways []Way) string {
	words := make([]string, len(ways))
	for i, w := range ways {
		words[i] = w.Addr.String()
		if w.Interface != "" {
			words[i] += " (" + catalog.CleanTo(w.Interface, 15) + ")"
		}
	}
	return strings.TrimSuffix("it at "+list(words), " at ")
}
