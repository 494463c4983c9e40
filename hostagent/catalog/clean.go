// SPDX-License-Identifier: MPL-2.0

package catalog

import "unicode"

// harmless tells whether r shows as itself. Beside control characters, format characters (Cf: right-to-left overrides,
// zero-width joiners, tags) and line separators (Zl, Zp) are not: they change how the text around them is read.
func harmless(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Zs)
}
