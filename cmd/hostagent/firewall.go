// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/config"
)

func firewallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firewall",
		Short: "Plan, look at, restore or remove hostagent's rules and sets",
		Example: `  hostagent firewall plan
  hostagent firewall show
  hostagent firewall remove --stop`,
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(firewallPlanCommand(), firewallShowCommand(), firewallRestoreCommand(), firewallRemoveCommand())
	return cmd
}

func firewallShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print hostagent's rules and sets as the kernel has them",
		Long: `Prints hostagent's sets in the syntax of "ipset save" and its rules in that of "iptables-save", as the kernel has
them now. It changes nothing and needs root.

Exit status: 0 printed, 2 not.`,
		Example: "  hostagent firewall show",
		Args:    noArguments,
	}
	s := addSettings(cmd, nil)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fw, err := s.firewall()
		if err != nil {
			return err
		}
		state, err := fw.Show(cmd.Context())
		text := state.String() // beside an error, what could be read
		if err == nil && !state.Exists() {
			text += "hostagent has no rules and no sets in this network namespace\n"
		}
		return errors.Join(err, output(cmd, text))
	}
	return cmd
}

func firewallRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Take away hostagent's rules and sets, and nothing else",
		Long: `Takes away every rule, chain, set and table of hostagent, in iptables (both variants) and nftables and in both IP
families, and nothing else; and the state that is saved for the next start of this host, so that they do not come back
with it. The set that publish_set names is emptied. It may be called again. While hostagent runs it refuses, because
the rules would come back; --stop ends it first. The sidecar range is then as open as the host's own rules leave it.

Exit status: 0 nothing of hostagent is left in the kernel, 2 it could not be removed, or not all of it.`,
		Example: `  hostagent firewall remove
  hostagent firewall remove --stop`,
		Args: noArguments,
	}
	s := addSettings(cmd, nil)
	stop := cmd.Flags().Bool("stop", false, "stop a running hostagent first")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.load()
		if err != nil {
			return err
		}
		fw, err := newFirewall(c)
		if err != nil {
			return err
		}
		lock, err := takeLock(cmd, *stop)
		if err != nil {
			return err
		}
		defer lock.Release() //nolint:errcheck // the process ends, and with it the lock
		text, err := removeRules(cmd.Context(), c, fw)
		if err == nil && text == "" {
			text = "nothing to remove\n"
		}
		return errors.Join(err, output(cmd, text))
	}
	return cmd
}

// removeRules takes away every rule and set of hostagent and its saved state, and says which, also beside an error; "" where
// there was nothing. Who calls it holds the lock.
func removeRules(ctx context.Context, c *config.Config, fw *firewall.Firewall) (text string, err error) {
	changes, err := fw.Remove(ctx)
	if !changes.Empty() {
		text = fmt.Sprintf("removed: %s\n", changes)
	}
	emptied, publishErr := unpublish(ctx, fw, firewall.SetName(c.Firewall.PublishSet))
	if c.StateDir != "" {
		err = errors.Join(err, hostagent.RemoveState(c.StateDir))
	}
	return text + emptied, errors.Join(err, publishErr)
}

// unpublish empties the set of publish_set, if there is one, and says so.
func unpublish(ctx context.Context, fw *firewall.Firewall, set firewall.SetName) (text string, err error) {
	if set == (firewall.SetName{}) {
		return "", nil
	}
	changed, err := fw.Publish(ctx, set, firewall.PortSet{})
	switch {
	case errors.Is(err, firewall.ErrNoSet):
		return "", nil // nothing of ours is in it
	case changed:
		return fmt.Sprintf("emptied: set %s\n", set), err
	}
	return "", err
}

// stopWithin is how long a running hostagent may take to end: longer than all of a pass's deadlines.
const stopWithin = 30 * time.Second

// takeLock gets the lock of this host, if need be and stop allows it by ending who has it.
func takeLock(cmd *cobra.Command, stop bool) (*hostagent.Lock, error) {
	lock, err := hostagent.AcquireLock(hostagent.RuntimeDir)
	held, isHeld := errors.AsType[*hostagent.HeldError](err)
	if !isHeld {
		return lock, err
	}
	if !stop {
		return nil, fmt.Errorf("%w; stop it first, or use --stop", err)
	}
	if held.PID <= 0 {
		return nil, fmt.Errorf("%w; it lives in another container: stop it there", err)
	}
	if err := unix.Kill(held.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("cannot stop hostagent, pid %d: %w", held.PID, err)
	}
	for deadline := time.Now().Add(stopWithin); time.Now().Before(deadline); {
		lock, err := hostagent.AcquireLock(hostagent.RuntimeDir)
		if _, isHeld := errors.AsType[*hostagent.HeldError](err); !isHeld {
			return lock, errors.Join(err, output(cmd, fmt.Sprintf("stopped hostagent, pid %d\n", held.PID)))
		}
		select {
		case <-cmd.Context().Done():
			return nil, cmd.Context().Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("hostagent, pid %d, did not end within %s: end it with kill -9, then call this again", held.PID, stopWithin)
}
