// SPDX-License-Identifier: MPL-2.0

package audit

func gossipJudges() []judge { return nil }
