// SPDX-License-Identifier: MPL-2.0

package audit

func caJudges() []judge { return nil }
