// SPDX-License-Identifier: MPL-2.0

package audit

func fileJudges() []judge { return nil }
