// SPDX-License-Identifier: MPL-2.0

package config

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzParse feeds bytes to the parser and checks what must hold whatever they are: no panic, errors that are fit for a
// terminal and name the file, and no configuration that is accepted but not valid.
func FuzzParse(f *testing.F) {
	if source, err := os.ReadFile(reference); err == nil {
		f.Add(source)
		f.Add([]byte(strings.ReplaceAll(string(source), "# ", "")))
	}
	for _, seed := range []string{
		"", "mode = \"guard\"\nextra_ports = [80, \"90-100\", 80]\n", "consul {\n address = \"unix:///x\"\n token = \"t\"\n}\n",
		"allow_from = [\"10.0.0.5/8\", \"::ffff:1.2.3.4/120\"]", "close_delay = \"1h\"", "firewall {\n accept = \"chain X\"\n}\n",
		"a = <<X\n${a}\nX\n", "a = [for x in y : x]", "mode = -1e999999999", "protected_ports = []\nsidecar_range = \"20-30\"\n",
		"exempt {\n finding = \"squatted-port\"\n port = 21007\n reason = \"x\"\n expires = \"2027-02-29\"\n}\n" +
			"exempt {\n finding = \"exposed-listener\"\n executable = \"/usr/../x\"\n service = \"a\"\n reason = \"\u00a0\"\n}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		c := Default()
		problems, parsed := c.merge("10.hcl", source)
		if !parsed && len(problems) == 0 {
			t.Error("not parsed, without a reason")
		}
		for _, problem := range problems {
			if problem.Line < 0 || problem.File != "10.hcl" {
				t.Errorf("a problem nowhere: %+v", problem)
			}
			if text := problem.Error(); strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("control characters in %q", text)
			}
		}
		err := c.Validate()
		if err != nil && strings.ContainsFunc(strings.ReplaceAll(err.Error(), "\n", ""), unicode.IsControl) {
			t.Errorf("control characters in %q", err)
		}
		if err != nil {
			return
		}
		for _, x := range c.Exemptions {
			texts := x.Service + x.Executable + x.Reason
			if x.lacks() != "" || !slices.Contains(exemptible(), x.Finding) || strings.ContainsFunc(texts, unicode.IsControl) ||
				len(c.Exemptions) > maxExempt || x.Reason != "" && strings.TrimSpace(x.Reason) == "" {
				t.Errorf("accepted exemption %+v", x)
			}
		}
		for _, r := range append(append([]PortRange{c.SidecarRange}, c.ExtraPorts...), c.GuardPorts...) {
			for _, protected := range c.ProtectedPorts {
				if r.Size() > 0 && r.First <= protected.Last && protected.First <= r.Last {
					t.Errorf("accepted %v, which shares ports with protected %v", r, protected)
				}
			}
		}
		if len(problems) == 0 && c.SidecarRange.Size() > maxSidecarPorts {
			t.Errorf("accepted sidecar range %v", c.SidecarRange)
		}
	})
}

// TestHostileSizes gives the parser large amounts of what its cost could grow with: nesting overflowed the stack, and
// heredocs took minutes, before checkTokens.
func TestHostileSizes(t *testing.T) {
	fill := func(size int, before, repeated, after string) []byte {
		return []byte(before + strings.Repeat(repeated, (size-len(before+after))/len(repeated)) + after)
	}
	const whole, quarter = maxFileSize, maxFileSize / 4
	for name, source := range map[string][]byte{
		"brackets":            fill(whole, "extra_ports = ", "[", ""),
		"parentheses":         fill(whole, "mode = ", "(", ""),
		"negations":           fill(whole, "mode = ", "!", ""),
		"heredocs":            fill(whole, "extra_ports = [", "<<A\n", ""),
		"blocks":              fill(quarter, "", "a{\n", ""),
		"conditionals":        fill(quarter, "mode = ", "a?", ""),
		"template directives": fill(quarter, "mode = \"", "%{if a}", ""),
		"heredoc lines":       fill(quarter, "mode = <<A\n", "x\n", ""),
		"dollars":             fill(quarter, "mode = \"", "$", ""),
		"attributes":          fill(quarter, "", "a=1\n", ""),
		"words":               fill(quarter, "", "a\n", ""),
		"digits":              fill(quarter, "mode = ", "1", ""),
		"ports":               fill(quarter, "extra_ports = [", "9,", "]\n"),
		"ranges":              fill(quarter, "extra_ports = [1,", "\"1-65535\",", "]\n"),
		"exemptions":          fill(quarter, "", "exempt {\n}\n", ""),
		"names":               fill(quarter, "gateways = [", "\"a\",", "]\n"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			c := Default()
			problems, _ := c.merge("10.hcl", source)
			problems = append(problems, c.contradictions()...)
			_ = problems.sorted()
			took := time.Since(start)
			t.Logf("%d problems in %v", len(problems), took.Round(time.Millisecond))
			if took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
