// SPDX-License-Identifier: MPL-2.0

package audit

func aclJudges() []judge { return nil }
