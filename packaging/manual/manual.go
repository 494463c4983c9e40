// SPDX-License-Identifier: MPL-2.0

// Package manual writes hostagent's manual pages and shell completions, all of them from what the program itself says: its
// tree of commands, the catalog of findings, the keys of the configuration and the reference configuration. Nothing is
// written twice, so nothing drifts. The program does not hold this package; cmd/hostagent with the build tag "manual" does.
//
// The pages use the macros of man(7), by a small writer of our own: cobra's generator makes a page for each command, by
// way of Markdown, and one page for all of them is what "man hostagent" is expected to show.
package manual

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// ExitStatus is one of the statuses with which the program ends.
type ExitStatus struct {
	Status  int
	Meaning string // a phrase
}

// Source is what the manual is made of.
type Source struct {
	Root      *cobra.Command // the whole tree
	Statuses  []ExitStatus
	Reference []byte    // packaging/hostagent.hcl
	Date      time.Time // of the pages; the same date makes the same bytes
}

// Write writes all files into a folder, which it makes if need be: hostagent.1 and hostagent.hcl.5, hostagent.bash,
// _hostagent and hostagent.fish. The error tells what of the source cannot be explained.
func Write(folder string, source Source) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("cannot make a folder for the manual: %w", err)
	}
	configuration, err := referencePage(source.Reference, source.Date)
	if err != nil {
		return fmt.Errorf("cannot explain the configuration: %w", err)
	}
	files := map[string][]byte{
		"hostagent.1":     []byte(programPage(source)),
		"hostagent.hcl.5": []byte(configuration),
	}
	for name, generate := range map[string]func(*bytes.Buffer) error{
		"hostagent.bash": func(b *bytes.Buffer) error { return source.Root.GenBashCompletionV2(b, true) },
		"_hostagent":     func(b *bytes.Buffer) error { return source.Root.GenZshCompletion(b) },
		"hostagent.fish": func(b *bytes.Buffer) error { return source.Root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			return fmt.Errorf("cannot make completions %s: %w", name, err)
		}
		files[name] = b.Bytes()
	}
	var failed []error
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			failed = append(failed, fmt.Errorf("cannot write the manual: %w", err))
		}
	}
	return errors.Join(failed...)
}
