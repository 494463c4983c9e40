// SPDX-License-Identifier: MPL-2.0

package audit

func apiJudges() []judge { return nil }
