// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"regexp"
	"strings"
)

// Both match what Render has a value for. One that follows without a blank stands for more words that some cases have.
var (
	blank   = regexp.MustCompile(`\{[a-z]+\}`)
	further = regexp.MustCompile(`([a-z}])\{[a-z]+\}`)
)

// General writes a template for no case in particular, for documentation: its {placeholders} as <words>.
func General(template string) string {
	return blank.ReplaceAllStringFunc(further.ReplaceAllString(template, "$1"), func(name string) string {
		return "<" + strings.Trim(name, "{}") + ">"
	})
}

// GeneralRemedy is General of e's remedy, or says that there is none beside that of each case.
func (e Entry) GeneralRemedy() string {
	if strings.TrimSpace(blank.ReplaceAllString(e.Remedy, "")) == "" {
		return "depends on the case; the finding itself says it"
	}
	return General(e.Remedy)
}
