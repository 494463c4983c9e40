// SPDX-License-Identifier: MPL-2.0

package audit

func instanceJudges() []judge { return nil }
