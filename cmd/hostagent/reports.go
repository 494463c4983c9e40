// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func reportsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reports",
		Short: "List hostagent's checks in Consul, or remove them",
		Long: `Lists the checks that hostagent has at the local Consul agent, each with its status and the service that it stands
on. It changes nothing. A page to look at is written by hostagent report.

Exit status: 0 listed, 2 the agent cannot be asked.`,
		Example: `  hostagent reports
  hostagent reports remove --stop`,
		Args: subcommandOnly,
	}
	s := addSettings(cmd, consulKeys())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, service, err := s.reports()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), reportsWithin)
		defer cancel()
		standing, err := client.Standing(ctx, service)
		if err != nil {
			return err
		}
		return output(cmd, reportsText(standing, service, client.Address())+unseenText(standing))
	}
	cmd.AddCommand(reportsRemoveCommand())
	return cmd
}

func reportsRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Take hostagent's service and all its checks out of Consul",
		Long: `Takes the service that hostagent registers for itself out of Consul, with its checks, and its checks on the services
of applications; nothing else. It may be called again. While hostagent runs it refuses, because they would come back;
--stop ends it first. Where the agent does not answer it gives up after 5 seconds.

Exit status: 0 nothing of hostagent is left there that the token may read, 2 it could not be removed, or not all of it.`,
		Example: `  hostagent reports remove
  hostagent reports remove --stop`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	stop := cmd.Flags().Bool("stop", false, "stop a running hostagent first")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, service, err := s.reports()
		if err != nil {
			return err
		}
		lock, err := takeLock(cmd, *stop)
		if err != nil {
			return err
		}
		defer lock.Release() //nolint:errcheck // the process ends, and with it the lock
		gone, err := removeReports(cmd.Context(), client, service)
		text := removedText(gone, service)
		if err == nil && text == "" {
			text = "nothing to remove\n"
		}
		if err == nil {
			text += unseenText(gone)
		}
		return errors.Join(reportsLeft(err, service, gone), output(cmd, text))
	}
	return cmd
}

// reportsLeft adds to the failure of removeReports what becomes of what is left.
func reportsLeft(err error, service string, gone consul.Standing) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot remove all reports: %w\n%s", err, remains(service, gone.Registered))
}

// reportsWithin is how long Consul may take: who removes a package waits for it.
const reportsWithin = 5 * time.Second

// reports returns the client of the configuration, and the name of hostagent's own service.
func (s *settings) reports() (client *consul.Client, service string, err error) {
	c, err := s.load()
	if err != nil {
		return nil, "", err
	}
	return reportsOf(c)
}

// reportsOf is reports of a configuration that is loaded.
func reportsOf(c *config.Config) (client *consul.Client, service string, err error) {
	options, err := consulOptions(c)
	if err != nil {
		return nil, "", err
	}
	client, err = consul.New(options)
	return client, c.Report.ServiceName, err
}

// removeReports takes away what stands. An agent that is slow but works through thousands of checks gets more time for as
// long as it gets on.
func removeReports(ctx context.Context, client *consul.Client, service string) (all consul.Standing, err error) {
	const most = 60 // turns
	for range most {
		var gone consul.Standing
		err = func() error {
			ctx, cancel := context.WithTimeout(ctx, reportsWithin)
			defer cancel()
			gone, err = client.Remove(ctx, service)
			return err
		}()
		all.Registered, all.Filtered = all.Registered || gone.Registered, gone.Filtered
		all.Checks = append(all.Checks, gone.Checks...)
		if err == nil || consul.KindOf(err) != consul.KindTimeout || len(gone.Checks) == 0 {
			break
		}
	}
	return all, err
}

// remains says what becomes of reports that could not be removed.
func remains(service string, gone bool) string {
	if gone {
		return "What is named here stays until it is taken away: mend that, and call this again."
	}
	return fmt.Sprintf(`Call this again when that is mended. Without it, what stands of service %[1]q goes once the Consul agent has run
for 72 hours with check "%[1]s:alive" critical, which it is from 30 seconds after hostagent's end. Checks of hostagent
on the services of applications (report { on = "service" }) stay.`, service)
}

// unseenText says that there may be more than a token lets through.
func unseenText(standing consul.Standing) string {
	if !standing.Filtered {
		return ""
	}
	return `not seen: checks on services that the token may not read; service_prefix "" { policy = "read" } shows them` + "\n"
}

// reportsText lists what stands. All of it is text of others.
func reportsText(standing consul.Standing, service, address string) string {
	if len(standing.Checks) == 0 {
		if standing.Registered {
			return fmt.Sprintf("service %s stands at the Consul agent %s without any check\n", service, address)
		}
		return fmt.Sprintf("no reports of service %s stand at the Consul agent %s\n", service, address)
	}
	const columns = 60
	rows := [][3]string{{"STATUS", "SERVICE", "CHECK"}}
	wide := catalog.Columns(rows[0][1])
	for _, check := range standing.Checks {
		on := catalog.Shorten(catalog.Clean(cmp.Or(check.Application, service)), columns)
		wide = max(wide, catalog.Columns(on))
		rows = append(rows, [3]string{catalog.Shorten(catalog.Clean(string(check.Status)), 8), on, catalog.Clean(check.ID)})
	}
	var b strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&b, "%-8s  %s%s  %s\n", row[0], row[1], strings.Repeat(" ", wide-catalog.Columns(row[1])), row[2])
	}
	return b.String()
}

// removedText tells what was taken away, in a line for each service; "" where that is nothing.
func removedText(gone consul.Standing, service string) string {
	const most = 20
	var b strings.Builder
	applications := 0
	for _, check := range gone.Checks {
		if check.Application == "" {
			continue
		}
		if applications++; applications <= most {
			fmt.Fprintf(&b, "removed: check %s on service %s\n", catalog.Clean(check.ID), catalog.Clean(check.Application))
		}
	}
	if applications > most {
		fmt.Fprintf(&b, "removed: %d more checks on services\n", applications-most)
	}
	switch own := len(gone.Checks) - applications; {
	case gone.Registered:
		fmt.Fprintf(&b, "removed: service %s with %s\n", service, plural(own, "check"))
	case own > 0:
		fmt.Fprintf(&b, "removed: %s on service %s\n", plural(own, "check"), service)
	}
	return b.String()
}
