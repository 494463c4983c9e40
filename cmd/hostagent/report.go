// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/page"
)

func reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Write what scan and audit see as a page for a browser",
		Long: `Looks once at this host as hostagent scan and hostagent audit do, and writes one HTML page: how the network reaches
each mesh service, over its sidecar and around it, what is wrong and what mends it, who has which port of the sidecar
range, and the production checklist. It changes nothing. Root sees the most.

The page needs nothing beside itself: it loads nothing and runs no script, and it prints well. Command lines of processes
and tokens are never in it; names, addresses and weaknesses of this host are. With --output the file is replaced as a
whole, and its owner and group alone may read it. The checks of a running hostagent in Consul are listed by hostagent
reports.

Exit status: 0 written; 1 written, and findings are at or above --fail-on where that is given; 2 it could not look or
write, or --fail-on is given and it does not know all services.`,
		Example: `  sudo hostagent report --output host.html
  hostagent report > host.html
  sudo hostagent report --consul-config /etc/consul.d --output host.html
  sudo hostagent report --output host.html --fail-on critical   for a cron job`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	o := addReportOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold, err := o.check(newScreen(cmd.OutOrStdout()).terminal)
		if err != nil {
			return err
		}
		c, err := s.load()
		if err != nil {
			return err
		}
		debug.SetGCPercent(oneShotGC)
		seen, err := lookForAudit(cmd.Context(), c, o.paths, o.offline)
		if err != nil {
			return &exitError{exitFailure, err}
		}
		seen.scan.NoteUnmatched()
		if err := o.write(cmd, hostPage(seen, string(c.Enforce), time.Now())); err != nil {
			return err
		}
		if threshold == never {
			return nil
		}
		return verdict(seen.scan, threshold)
	}
	return cmd
}

// reportOptions are the flags of a report beside those of the configuration.
type reportOptions struct {
	paths          []string // of the agent's configuration
	offline        bool
	format, output string
	failOn         string
}

func addReportOptions(cmd *cobra.Command) *reportOptions {
	o := new(reportOptions)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.paths, "consul-config", nil,
		"`path` of the agent's configuration file or folder, repeatable: read it beside what the agent tells")
	completeFiles(cmd, "consul-config", "hcl", "json")
	flags.BoolVar(&o.offline, "offline", false, "ask no agent: look at this host and the files of --consul-config alone")
	flags.StringVar(&o.format, "format", formatHTML, "`format` of the report: html")
	completeFlag(cmd, "format", formatHTML)
	flags.StringVar(&o.output, "output", "", "`file` to write instead of the standard output")
	completeFiles(cmd, "output", formatHTML)
	flags.StringVar(&o.failOn, "fail-on", "never", "`severity` from which findings make the exit status 1: info, warning, critical or never")
	completeFlag(cmd, "fail-on", failOnWords()...)
	return o
}

// formatHTML is the format of pages.
const formatHTML = "html"

// check refuses what cannot be done, before anything is looked at.
func (o *reportOptions) check(terminal bool) (catalog.Severity, error) {
	threshold, err := parseFailOn(o.failOn)
	if err := errors.Join(err, checkChoice("format", o.format, formatHTML)); err != nil {
		return 0, err
	}
	if o.offline && len(o.paths) == 0 {
		return 0, errors.New("--offline asks no agent, so services are not known: name its configuration with --consul-config, as in --consul-config /etc/consul.d")
	}
	return threshold, checkPageOutput(o.output, terminal)
}

func (o *reportOptions) write(cmd *cobra.Command, p *page.Page) error {
	return writePage(cmd, o.output, p)
}

// checkPageOutput refuses to write a page where it is of no use, or over what is no page: to a terminal, to a device, through
// a symbolic link.
func checkPageOutput(path string, terminal bool) error {
	if path == "" {
		if terminal {
			return errors.New("a page is for a browser, and the standard output is a terminal: add --output host.html, or > host.html")
		}
		return nil
	}
	if path == "-" {
		return errors.New("--output names a file: leave it out for the standard output, or name ./- where that is meant")
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot write the page: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("cannot write the page: %q is a symbolic link, which whoever made it may lead anywhere; name the file itself", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("cannot write the page: %q is no file; name one, or leave --output out for the standard output", path)
	}
	return nil
}

// writePage writes p to the standard output of cmd, or into the file at path.
func writePage(cmd *cobra.Command, path string, p *page.Page) error {
	var b bytes.Buffer
	if err := page.Write(&b, p); err != nil {
		return fmt.Errorf("cannot write the page: %w", err)
	}
	if path == "" {
		return output(cmd, b.String())
	}
	if err := replaceFile(path, b.Bytes()); err != nil {
		return fmt.Errorf("cannot write the page: %w", err)
	}
	return nil
}

// cause is what the system said, without the name of a file that nobody has asked for.
func cause(err error) error {
	if one, ok := errors.AsType[*fs.PathError](err); ok {
		return one.Err
	}
	if one, ok := errors.AsType[*os.LinkError](err); ok {
		return one.Err
	}
	return err
}

// replaceFile puts a file with data at path, which is there as a whole or not at all. The rename takes the place of a link that
// somebody has put there since checkPageOutput looked, and does not follow it.
func replaceFile(path string, data []byte) (err error) {
	const mode = 0o640 // it tells where this host is weak
	file, err := os.CreateTemp(filepath.Dir(path), ".hostagent-*.html")
	if err != nil {
		return fmt.Errorf("%q: %w", path, cause(err))
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // the first error tells more
			err = fmt.Errorf("%q: %w", path, cause(err))
		}
	}()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
