// SPDX-License-Identifier: MPL-2.0

package catalog

// String is s as one word, for options and programs. Like ids, these words never change their meaning.
func (s Step) String() string {
	switch s {
	case StepACLs:
		return "acls"
	case StepTransport:
		return "transport"
	case StepCA:
		return "ca"
	case StepFirewall:
		return "firewall"
	case StepInstances:
		return "instances"
	case StepFiles:
		return "files"
	}
	return ""
}
