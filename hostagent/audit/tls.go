// SPDX-License-Identifier: MPL-2.0

package audit

func tlsJudges() []judge { return nil }
