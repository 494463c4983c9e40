// SPDX-License-Identifier: MPL-2.0

package consul

import "errors"

// MissingRule returns the line of a policy that would give what the agent, by err, says that the token lacks; "" where err is
// no refusal, and where the refusal names no right of this kind.
func MissingRule(err error) string {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindDenied {
		return ""
	}
	if missing, ok := lackOf(e.Err.Error()); ok {
		return missing.rule()
	}
	return ""
}
