// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostagent/hostagent/hostagent/config"
)

// nearest returns the candidate that a mistyped word was most likely meant to be, "" where none is near. A part of a name,
// such as "token-file", is near.
func nearest(word string, candidates []string) string {
	if near := config.Closest(word, candidates); near != "" || len(word) < 3 {
		return near
	}
	for _, candidate := range candidates {
		if strings.Contains(candidate, word) {
			return candidate
		}
	}
	return ""
}

// flagError names the flag that was meant by an unknown one. It repeats no value: pflag would, of "-token=…".
func flagError(cmd *cobra.Command, err error) error {
	see := fmt.Sprintf("\nsee %s --help", cmd.CommandPath())
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok && invalid.GetFlag().Value.Type() == "bool" {
		return checkChoice(invalid.GetFlag().Name, invalid.GetValue(), "true", "false")
	}
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return fmt.Errorf("%w%s", err, see)
	}
	dashes, word := "--", unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" { // "-format", as the tools of HashiCorp have it
		dashes = "-"
		word, _, _ = strings.Cut(short, "=")
	}
	if named := cmd.Flags().Lookup(tokenFileFlag); named != nil && strings.HasSuffix(word, "token") {
		return fmt.Errorf("unknown flag %q: a token on a command line is seen by every user of this host, in the list of processes; "+
			"put it in a file for --%s, or in CONSUL_HTTP_TOKEN", dashes+word, tokenFileFlag)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest(word, names); near != "" {
		return fmt.Errorf("unknown flag %q; did you mean --%s?", dashes+word, near)
	}
	if others := commandsWith(cmd.Root(), word); len(others) > 0 {
		return fmt.Errorf("unknown flag %q for %q; it stands behind %s", dashes+word, cmd.CommandPath(), strings.Join(others, " or "))
	}
	return fmt.Errorf("unknown flag %q%s", dashes+word, see)
}

// commandsWith returns the commands that have a flag, "hostagent run" and the like.
func commandsWith(cmd *cobra.Command, flag string) (paths []string) {
	if cmd.IsAvailableCommand() && cmd.LocalFlags().Lookup(flag) != nil {
		paths = append(paths, strconv.Quote(cmd.CommandPath()))
	}
	for _, sub := range cmd.Commands() {
		paths = append(paths, commandsWith(sub, flag)...)
	}
	return paths
}

// checkChoice refuses a flag's value that is none of choices, in the words that a value of the configuration is refused in.
func checkChoice(flag, value string, choices ...string) error {
	if slices.Contains(choices, value) {
		return nil
	}
	return fmt.Errorf("flag --%s: %w", flag, config.UnknownWord(value, choices))
}

// completeFlag lets shells complete a flag's value from a closed list.
func completeFlag(cmd *cobra.Command, flag string, choices ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
}

// completeWords lets shells complete the last word of a flag's value that is a list with commas.
func completeWords(cmd *cobra.Command, flag string, choices []string) {
	complete := func(_ *cobra.Command, _ []string, typed string) (offers []cobra.Completion, _ cobra.ShellCompDirective) {
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		for _, choice := range choices {
			if !slices.Contains(strings.Split(before, ","), choice) {
				offers = append(offers, before+choice)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
}

// completeFiles lets shells complete a flag's value from files, where extensions are named from those alone, and folders.
func completeFiles(cmd *cobra.Command, flag string, extensions ...string) {
	directive := cobra.ShellCompDirectiveDefault
	if len(extensions) > 0 {
		directive = cobra.ShellCompDirectiveFilterFileExt
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(extensions, directive)); err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
}

// subcommandOnly refuses a word that is no subcommand, and names the one that may have been meant.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest(args[0], names); near != "" {
		return fmt.Errorf("%s; did you mean %q?", text, near)
	}
	if deeper := commandsNamed(cmd.Root(), args[0]); len(deeper) > 0 {
		return fmt.Errorf("%s; did you mean %s?", text, strings.Join(deeper, " or "))
	}
	return fmt.Errorf("%s\nsee %s --help", text, cmd.CommandPath())
}

// commandsNamed returns the commands of that name wherever they stand, "firewall show" and the like.
func commandsNamed(cmd *cobra.Command, name string) (paths []string) {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name && sub.IsAvailableCommand() {
			paths = append(paths, strconv.Quote(strings.TrimPrefix(sub.CommandPath(), sub.Root().Name()+" ")))
		}
		paths = append(paths, commandsNamed(sub, name)...)
	}
	return paths
}

// noArguments refuses words behind a command that takes none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, but was given %q\nsee %[1]s --help", cmd.CommandPath(), args[0])
}
