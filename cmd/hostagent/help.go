// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// helpWidth is how wide help is written, in columns, whatever the terminal: longer lines are hard to read.
const helpWidth = 80

// explain gives the whole tree of commands its help, the commands that cobra makes itself among them.
func explain(root *cobra.Command) {
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		fmt.Fprint(cmd.OutOrStdout(), helpText(cmd))
	})
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := fmt.Fprint(cmd.OutOrStderr(), usageText(cmd))
		return err
	})
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			explainHelp(cmd)
		case "completion":
			explainCompletion(cmd)
		}
	}
	explainFlags(root)
}

// explainFlags says what the flags do that cobra gives to every command.
func explainFlags(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	for name, usage := range map[string]string{
		"help": "print this help", "version": "print the version", "no-descriptions": "complete without descriptions",
	} {
		if flag := cmd.LocalFlags().Lookup(name); flag != nil {
			flag.Usage = usage
		}
	}
	for _, sub := range cmd.Commands() {
		explainFlags(sub)
	}
}

func explainHelp(cmd *cobra.Command) {
	cmd.Use = "help [COMMAND]..."
	cmd.Short = "Print the help of a command"
	cmd.Long = "Prints what --help of the command prints. hostagent(1) holds it all in one page."
	cmd.Example = "  hostagent help firewall plan"
	cmd.Run = nil
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		about, rest, err := cmd.Root().Find(args)
		if len(rest) == 0 && err == nil {
			return about.Help()
		}
		if len(rest) > 0 && about.HasAvailableSubCommands() {
			return subcommandOnly(about, rest)
		}
		return fmt.Errorf("%s has no command %q\nsee %[1]s --help", about.CommandPath(), rest[0])
	}
}

func explainCompletion(cmd *cobra.Command) {
	cmd.Short = "Print what lets a shell complete commands and flags"
	cmd.Long = "Prints a script with which a shell completes commands, flags and their values. Packages of hostagent bring these scripts along. " +
		"Completing needs no root and asks nobody."
	cmd.Example = "  hostagent completion bash"
	cmd.Args = subcommandOnly
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, shell := range cmd.Commands() {
		shell.Args = noArguments
		switch shell.Name() {
		case "bash":
			shell.Short = "Print completions for bash"
			shell.Long = "Prints the completions for bash. They need the package bash-completion."
			shell.Example = "  source <(hostagent completion bash)   in this shell\n" +
				"  hostagent completion bash > /etc/bash_completion.d/hostagent"
		case "zsh":
			shell.Short = "Print completions for zsh"
			shell.Long = "Prints the completions for zsh. They need compinit, for example in ~/.zshrc: autoload -U compinit; compinit"
			shell.Example = "  source <(hostagent completion zsh)   in this shell\n" +
				`  hostagent completion zsh > "${fpath[1]}/_hostagent"`
		case "fish":
			shell.Short = "Print completions for fish"
			shell.Long = "Prints the completions for fish."
			shell.Example = "  hostagent completion fish | source   in this shell\n" +
				"  hostagent completion fish > ~/.config/fish/completions/hostagent.fish"
		default: // no other shell is of use on Linux
			cmd.RemoveCommand(shell)
		}
	}
}

// helpText is what --help prints.
func helpText(cmd *cobra.Command) string {
	var b strings.Builder
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		b.WriteString(filled(paragraph) + "\n")
	}
	b.WriteString(usageText(cmd))
	return b.String()
}

// usageText is the part of the help that is made of the command's own tree and flags.
func usageText(cmd *cobra.Command) string {
	var b strings.Builder
	b.WriteString("Usage:\n")
	isGroup := cmd.HasAvailableSubCommands()
	if !isGroup || hasOwnFlags(cmd) {
		b.WriteString("  " + cmd.UseLine() + "\n")
	}
	if isGroup {
		b.WriteString("  " + cmd.CommandPath() + " COMMAND\n")
	}
	if cmd.HasExample() {
		b.WriteString("\nExamples:\n" + cmd.Example + "\n")
	}
	if isGroup {
		b.WriteString("\nCommands:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s  %s\n", sub.NamePadding(), sub.Name(), sub.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		b.WriteString("\nFlags:\n" + cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if isGroup {
		fmt.Fprintf(&b, "\n%s COMMAND --help tells more about a command.\n", cmd.CommandPath())
	}
	return b.String()
}

// hasOwnFlags tells a command that does something by itself from one that only groups others.
func hasOwnFlags(cmd *cobra.Command) bool {
	has := false
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { has = has || f.Name != "help" && f.Name != "version" })
	return has
}

// filled breaks a paragraph between words so that no line is wider than helpWidth. Text that begins with blanks stays.
func filled(paragraph string) string {
	if strings.HasPrefix(paragraph, " ") {
		return paragraph + "\n"
	}
	return strings.Join(catalog.Wrap(paragraph, helpWidth, 0), "\n") + "\n"
}

// unquoteUsages takes the marks of placeholders out of the flags' texts, which shells show as they are.
func unquoteUsages(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	for _, sub := range cmd.Commands() {
		unquoteUsages(sub)
	}
}
