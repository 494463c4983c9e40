// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// commands returns every command of a fresh tree, those that cobra makes too.
func commands() []*cobra.Command {
	var all []*cobra.Command
	var add func(*cobra.Command)
	add = func(cmd *cobra.Command) {
		all = append(all, cmd)
		for _, sub := range cmd.Commands() {
			add(sub)
		}
	}
	add(rootCommand())
	return all
}

// TestHelp looks at the help of every command.
func TestHelp(t *testing.T) {
	for _, cmd := range commands() {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.ToUpper(cmd.Short[:1]) != cmd.Short[:1] || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: the short text is %q, want a phrase with a capital and without a full stop", path, cmd.Short)
		}
		if cmd.Long != "" && !slices.Contains([]string{".", ")", "t"}, cmd.Long[len(cmd.Long)-1:]) {
			t.Errorf("%s: the long text does not end: %q", path, cmd.Long)
		}
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s: no example shows it: %q", path, cmd.Example)
		}
		text := helpText(cmd)
		examples := false
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			switch line {
			case "Examples:":
				examples = true
			case "":
				examples = false
			}
			if most := map[bool]int{true: 100, false: helpWidth}[examples]; catalog.Columns(line) > most {
				t.Errorf("%s: this line is wider than %d columns: %q", path, most, line)
			}
			if line != strings.TrimRight(line, " \t") {
				t.Errorf("%s: this line ends in blanks: %q", path, line)
			}
		}
		if strings.Contains(text, "\n\n\n") || strings.Contains(text, "help for "+cmd.Name()) {
			t.Errorf("%s: the help has gaps, or texts that say nothing:\n%s", path, text)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || f.Usage[0] >= 'A' && f.Usage[0] <= 'Z' && !strings.HasPrefix(f.Usage, "TCP") || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s: --%s says %q, want a phrase in lower case", path, f.Name, f.Usage)
			}
		})
	}
}

// TestExamplesAreRight reads the examples of every help as the program would, and stops before anything is done.
func TestExamplesAreRight(t *testing.T) {
	seen := 0
	for _, cmd := range commands() {
		for line := range strings.Lines(cmd.Example) {
			if args, ours := exampleArgs(line); ours {
				seen++
				if err := understands(args); err != nil {
					t.Errorf("%s: the example %q: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
				}
			}
		}
	}
	if seen < 40 {
		t.Errorf("read %d examples, want 40 or more", seen)
	}
	for _, wrong := range []string{
		"hostagent scna", "hostagent scan --fromat json", "hostagent scan --format jsn", "hostagent firewall show x", "hostagent run --mode",
		"hostagent config shwo", "hostagent help scna", "hostagent scan --watch=maybe", "hostagent audit --only acls,gosip-key", "hostagent firewall",
	} {
		args, ours := exampleArgs(wrong)
		if err := understands(args); !ours || err == nil {
			t.Errorf("%q passes for right", wrong)
		}
	}
}

// exampleArgs returns the arguments of a line that calls hostagent, without what a shell does with its output and without
// the words on it.
func exampleArgs(line string) (args []string, ours bool) {
	line, _, _ = strings.Cut(strings.TrimSpace(line), "  ")
	if inner := regexp.MustCompile(`<\((.*)\)`).FindStringSubmatch(line); inner != nil {
		line = inner[1]
	}
	line = regexp.MustCompile(` [|>&;] ?.*`).ReplaceAllString(line, "")
	args = strings.Fields(strings.TrimPrefix(line, "sudo "))
	if len(args) == 0 || args[0] != "hostagent" {
		return nil, false
	}
	return args[1:], true
}

// understands tells what is wrong with arguments, without running what they ask for.
func understands(args []string) error {
	cmd, rest, err := rootCommand().Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	if cmd.Name() == "help" {
		about, unknown, err := cmd.Root().Find(cmd.Flags().Args())
		if err != nil {
			return err
		}
		if len(unknown) > 0 {
			return fmt.Errorf("%s has no command %q", about.CommandPath(), unknown)
		}
	}
	if cmd.HasAvailableSubCommands() && cmd.Name() != "reports" {
		return fmt.Errorf("%s does nothing by itself", cmd.CommandPath())
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		complete, known := cmd.GetFlagCompletionFunc(f.Name)
		if !known {
			return
		}
		values := []string{f.Value.String()}
		if list, isList := f.Value.(pflag.SliceValue); isList {
			values = list.GetSlice()
		}
		words, directive := complete(cmd, nil, "")
		for _, value := range values {
			if directive == cobra.ShellCompDirectiveNoFileComp && len(words) > 0 && !slices.Contains(words, value) {
				err = fmt.Errorf("--%s %q is none of %q", f.Name, value, words)
			}
		}
	})
	return err
}

// TestEveryFlagCompletes: each flag with a value says what a shell may offer for it, if only that it is nothing.
func TestEveryFlagCompletes(t *testing.T) {
	files := []string{"config", "consul-config", "consul-token-file", "kv", "output", "socket"}
	for _, cmd := range commands() {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "bool" {
				return
			}
			complete, known := cmd.GetFlagCompletionFunc(f.Name)
			if !known {
				if strings.Contains(f.Usage, "`file`") || strings.Contains(f.Usage, "`path`") || strings.Contains(f.Usage, " or ") && strings.Contains(f.Usage, ":") {
					t.Errorf("%s: --%s completes nothing", cmd.CommandPath(), f.Name)
				}
				return
			}
			words, directive := complete(cmd, nil, "")
			if isFile := directive != cobra.ShellCompDirectiveNoFileComp; isFile != slices.Contains(files, f.Name) {
				t.Errorf("%s: --%s completes files: %t", cmd.CommandPath(), f.Name, isFile)
			}
			for _, word := range words {
				if _, isItem := catalog.LookupItem(catalog.ID(word)); isItem {
					continue // hostagent explain lists them
				}
				if directive == cobra.ShellCompDirectiveNoFileComp && !strings.Contains(f.Usage, word) {
					t.Errorf("%s: --%s completes %q, of which its text %q says nothing", cmd.CommandPath(), f.Name, word, f.Usage)
				}
			}
		})
	}
}
