// SPDX-License-Identifier: MPL-2.0

package consul

// Since tells whether the agent is of a version, as in "1.14.0", or a later one. An agent of which no version is known counts
// as later than all.
func (a *Agent) Since(version string) bool {
	is, known := parseVersion(a.Version)
	asked, _ := parseVersion(version)
	return !known || is.compare(asked) >= 0
}
