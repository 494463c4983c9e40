// SPDX-License-Identifier: MPL-2.0

package main

import "github.com/spf13/cobra"

// outputFormat is how a command writes its result: a table for people or JSON for programs.
type outputFormat struct{ value *string }

func formats() []string { return []string{"table", "json"} }

// addFormat gives cmd the flag --format.
func addFormat(cmd *cobra.Command) outputFormat {
	f := outputFormat{cmd.Flags().String("format", formats()[0], "`format` of the output: table or json")}
	completeFlag(cmd, "format", formats()...)
	return f
}

func (f outputFormat) check() error { return checkChoice("format", *f.value, formats()...) }

func (f outputFormat) json() bool { return *f.value == "json" }
