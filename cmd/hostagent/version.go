// SPDX-License-Identifier: MPL-2.0

package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Prints the version in one line. As JSON it also tells the commit that the program was built from, with its time, and
whether anything was changed beside it; the version of Go; and the system that it was built for.`,
		Example: `  hostagent version
  hostagent version --format json | jq -r .commit`,
		Args: noArguments,
	}
	choices := []string{"text", "json"}
	format := cmd.Flags().String("format", choices[0], "`format`: text or json")
	completeFlag(cmd, "format", choices...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkChoice("format", *format, choices...); err != nil {
			return err
		}
		if *format != "json" {
			return output(cmd, "hostagent version "+version()+"\n")
		}
		info, ok := debug.ReadBuildInfo()
		if !ok {
			info = new(debug.BuildInfo)
		}
		text, err := jsonText(buildDocument(info))
		if err != nil {
			return err
		}
		return output(cmd, text)
	}
	return cmd
}

// versionDocument is what "version --format json" prints: packaging/schema/version.schema.json describes it.
type versionDocument struct {
	SchemaVersion int    `json:"schema_version"`
	Version       string `json:"version"`
	Commit        string `json:"commit"`
	CommitTime    string `json:"commit_time"`
	Modified      bool   `json:"modified"`
	GoVersion     string `json:"go_version"`
	OS            string `json:"os"`
	Arch          string `json:"arch"`
}

// buildDocument tells what the toolchain recorded. Of a program built outside of its repository, from the module cache for
// one, it recorded no commit.
func buildDocument(info *debug.BuildInfo) versionDocument {
	document := versionDocument{SchemaVersion: 1, Version: version(), GoVersion: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			document.Commit = setting.Value
		case "vcs.time":
			document.CommitTime = setting.Value
		case "vcs.modified":
			document.Modified = setting.Value == "true"
		}
	}
	return document
}
