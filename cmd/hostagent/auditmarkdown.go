// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// auditMarkdown writes an audit for a ticket, as a list of tasks. It uses no HTML and no table: a pipe in what was found
// would end a table's cell, in code too.
//
// What came from elsewhere stands in code. GitHub, GitLab and Jira look for mentions, references to tickets, links and
// formulas in the text that they have rendered, where a backslash before an "@" is gone, and leave code alone.
func auditMarkdown(d audit.Document) string {
	var b strings.Builder
	heading := "this host"
	if d.Node != "" {
		heading = "node " + markdownCode(d.Node)
	}
	fmt.Fprintf(&b, "# Production checklist of %s\n\n", heading)
	fmt.Fprintf(&b, "**%s**\n\n", markdownText(d.Score.String()))
	var about []string
	for _, fact := range [][2]string{{"datacenter", d.Datacenter}, {"Consul", d.ConsulVersion}, {"hostagent", d.Version}} {
		if fact[1] != "" {
			about = append(about, fact[0]+" "+markdownCode(fact[1]))
		}
	}
	if len(about) > 0 {
		b.WriteString(strings.Join(about, ", ") + "\n\n")
	}
	for _, step := range catalog.Steps() {
		headed := false
		for i := range d.Items {
			if d.Items[i].Step != step.String() {
				continue
			}
			if !headed {
				fmt.Fprintf(&b, "## %s\n\n", markdownText(step.Title()))
				headed = true
			}
			markdownItem(&b, &d.Items[i])
		}
		if headed {
			b.WriteByte('\n')
		}
	}
	b.WriteString(markdownText(exhaustion) + "<" + securityModel + ">\n")
	if len(d.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
	}
	for _, note := range d.Notes {
		b.WriteString("- " + markdownCode(note) + "\n")
	}
	return b.String()
}

// markdownItem writes one item of the list: to be ticked off where something is to be done, or to be found out.
func markdownItem(b *strings.Builder, item *audit.DocumentItem) {
	box := "[ ] "
	switch item.Status {
	case audit.Pass:
		box = "[x] "
	case audit.NotApplicable, audit.Info:
		box = ""
	case audit.Unknown, audit.Warn, audit.Fail:
	}
	fmt.Fprintf(b, "- %s**%s** %s %s\n", box, item.Status, markdownCode(string(item.ID)), markdownText(item.Title))
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(b, "  - %s: %s\n", label, text)
		}
	}
	for _, found := range item.Found {
		line("found", markdownCode(found))
	}
	if item.Status == audit.Pass || item.Status == audit.NotApplicable {
		return
	}
	line("why", markdownText(item.Why))
	line("mend", markdownCode(item.Remedy))
	line("to see it", markdownCode(item.Needs))
}

// markdownCode writes text of unknown origin as code, "" for none. A backtick in it, which would end the code, becomes an
// apostrophe: longer fences are not understood everywhere.
func markdownCode(text string) string {
	text = strings.TrimSpace(strings.ReplaceAll(catalog.CleanTo(text, auditText), "`", "'"))
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// markdownText escapes what would have a meaning in our own sentences.
func markdownText(text string) string {
	var b strings.Builder
	for _, r := range text {
		if strings.ContainsRune("\\`*_{}[]<>#|~$&!", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
