// SPDX-License-Identifier: MPL-2.0

package audit

func firewallJudges() []judge { return nil }
