// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/facts"
)

func firewallRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Apply the ports of the last run, before Consul is up",
		Long: `Makes the kernel hold what the last guard run saved in state_dir, as far as the configuration of now lets it:
for the start of a host, before Consul and the network are up. The set of publish_set, if it is there by then,
gets the open ports too. In mode observe, while hostagent runs, and where rules of hostagent stand already, it
restores nothing. A saved state that is damaged, of another host, of another user or of a newer version is refused,
and then no port is opened and none closed: where the service runs, "systemctl restart hostagent-restore" does it.
With kv_prefix the settings of Consul's KV count that the last run kept there.

In guard mode it also makes, empty, the sets that are missing: iptables-restore loads nothing at all of a file in
which somebody saved rules of hostagent and one of them names a missing set. With --sets-only it does only that,
for a unit that comes before netfilter-persistent and the like; the rest belongs after them, because they flush
what stands. Where such a file is there, --sets-only makes the sets in mode observe too, and with a configuration
that is wrong.

Exit status: 0 restored, or nothing to restore; 1 the saved state was refused; 78 the configuration is wrong; 2
anything else.`,
		Example: `  hostagent firewall restore --sets-only
  hostagent firewall restore`,
		Args: noArguments,
	}
	s := addSettings(cmd, map[string]string{"mode": "`mode` to work in: observe or guard"})
	completeFlag(cmd, "mode", string(config.ModeObserve), string(config.ModeGuard))
	setsOnly := cmd.Flags().Bool("sets-only", false, "only make the sets that are missing, empty")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.load()
		note := ""
		if err == nil {
			c, note = s.overKept(c)
		}
		if *setsOnly {
			return restoreSets(cmd, c, err)
		}
		if err != nil {
			return &exitError{exitConfig, err}
		}
		if err := output(cmd, note); err != nil {
			return err
		}
		if c.Mode != config.ModeGuard {
			return output(cmd, notGuarding)
		}
		return withLock(cmd, func(lock *hostagent.Lock) error {
			fw, err := newFirewall(c)
			if err != nil {
				return err
			}
			return errors.Join(restore(cmd, c, fw, lock), makeSets(cmd, fw))
		})
	}
	return cmd
}

const notGuarding = "not in guard mode: nothing to restore\n"

// restoreSets makes the sets that saved rules may name. Where a file is known to name them, the firewall of the whole host
// depends on them, whatever hostagent may do itself; configErr is why there is no configuration.
func restoreSets(cmd *cobra.Command, c *config.Config, configErr error) error {
	named := slices.ContainsFunc(facts.ReadSavedRules(), func(saved facts.SavedRules) bool { return !saved.NFT })
	var err error
	switch {
	case named:
		options := firewall.Options{Backend: firewall.BackendIptables}
		if configErr == nil {
			options.Variant = firewall.Variant(c.Firewall.IptablesVariant)
		}
		err = makeSetsLocked(cmd, options)
	case configErr == nil && c.Mode == config.ModeGuard:
		err = makeSetsLocked(cmd, firewallOptions(c))
	case configErr == nil:
		err = output(cmd, notGuarding)
	}
	if configErr != nil {
		return &exitError{exitConfig, errors.Join(configErr, err)}
	}
	return err
}

func makeSetsLocked(cmd *cobra.Command, options firewall.Options) error {
	return withLock(cmd, func(*hostagent.Lock) error {
		fw, err := firewall.New(options)
		if err != nil {
			return err
		}
		return makeSets(cmd, fw)
	})
}

// withLock calls do with the lock of this host, and does nothing, which it says, where a running hostagent has it.
func withLock(cmd *cobra.Command, do func(*hostagent.Lock) error) error {
	lock, err := hostagent.AcquireLock(hostagent.RuntimeDir)
	if held, isHeld := errors.AsType[*hostagent.HeldError](err); isHeld {
		return output(cmd, fmt.Sprintf("hostagent is running (pid %d): nothing to restore, its rules stand\n", held.PID))
	}
	if err != nil {
		return err
	}
	defer lock.Release() //nolint:errcheck // the process ends, and with it the lock
	return do(lock)
}

// restore restores what was saved and says so.
func restore(cmd *cobra.Command, c *config.Config, fw *firewall.Firewall, lock *hostagent.Lock) error {
	if c.StateDir == "" {
		return output(cmd, "no saved state: state_dir is empty\n")
	}
	p := partsWithoutConsul(c, slog.New(slog.DiscardHandler))
	p.Firewall = fw
	useFirewall(&p, fw)
	p.Machine, _ = hostagent.MachineFingerprint(hostagent.MachineIDFile) // Restore says so where it is missed
	done, err := hostagent.Restore(cmd.Context(), p, lock.Claimed())
	if _, refused := errors.AsType[*hostagent.RefusedError](err); refused {
		return &exitError{exitFindings, err}
	}
	if err != nil {
		return err
	}
	if !done.Missing {
		err = lock.Claim()
	}
	return errors.Join(err, output(cmd, restoredText(c.StateDir, done)))
}

// makeSets makes the sets that are missing and says which.
func makeSets(cmd *cobra.Command, fw *firewall.Firewall) error {
	changes, err := fw.MakeSets(cmd.Context())
	text := ""
	if !changes.Empty() {
		text = fmt.Sprintf("empty sets made: %s\n", changes)
	}
	return errors.Join(err, output(cmd, text))
}

func restoredText(dir string, done *hostagent.Restored) string {
	ports := fmt.Sprintf("guard %s; open %s", done.Rules.Guard, done.Rules.Open)
	if done.Rules.Paths.Len() > 0 {
		ports += fmt.Sprintf("; exposed paths %s", done.Rules.Paths)
	}
	switch {
	case done.Missing:
		return fmt.Sprintf("no saved state in %s: nothing to restore\n", dir)
	case done.Standing:
		return "rules of an earlier run stand: nothing to restore; " + ports + "\n"
	case done.Nobody:
		ports += "; open ports wait for Consul: of those who were let in, allow_from is not known to let anybody in now"
	}
	text := "restored: " + ports + "\n"
	if done.Unpublished != nil {
		text += fmt.Sprintf("not yet: %v\n", done.Unpublished)
	}
	return text
}
