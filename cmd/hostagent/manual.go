// SPDX-License-Identifier: MPL-2.0

//go:build manual

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hostagent/hostagent/packaging/manual"
)

// main writes the manual of the program that this is without the build tag:
//
//	go run -tags manual ./cmd/hostagent packaging/hostagent.hcl FOLDER
func main() {
	if err := writeManual(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(exitFailure)
	}
}

func writeManual(args []string, epoch string) error {
	if len(args) != 2 {
		return errors.New("name the reference configuration and the folder to write to")
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("cannot tell the date of the manual: %w; set SOURCE_DATE_EPOCH to seconds since 1970", err)
	}
	reference, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("cannot read the reference configuration: %w", err)
	}
	return manual.Write(args[1], manual.Source{
		Root: rootCommand(), Reference: reference, Date: time.Unix(seconds, 0),
		Statuses: []manual.ExitStatus{
			{Status: 0, Meaning: "It went well, and nothing is wrong."},
			{Status: exitFindings, Meaning: "It went well, and something on this host is not as it should be."},
			{Status: exitFailure, Meaning: "It did not go well: the reason is on the standard error."},
			{Status: exitNotRunning, Meaning: "The service does not run."},
			{Status: exitNotInstalled, Meaning: "The service is not installed."},
			{Status: exitConfig, Meaning: "The configuration is wrong, and starting again cannot help."},
		},
	})
}
