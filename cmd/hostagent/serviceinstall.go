// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/packaging"
	"github.com/hostagent/hostagent/systemd"
)

// configFile is where an installation's configuration stands.
const configFile = config.DefaultPath + "/hostagent.hcl"

func serviceInstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install this program as a service of systemd and start it",
		Long: `Installs this program, where it lies, as a service of systemd, and starts it: three units in ` + unitFolder + `
(the service, and two that run once at boot, before the network comes up), the system user that they run as, and,
where there is no configuration in ` + config.DefaultPath + ` yet, one that observes, so that it cuts nobody off. It needs no
Consul to be there. Called again, by a newer program for one, it brings the units up to date and restarts the
service; its rules stand meanwhile.

The program must lie where only root can write, in /usr/local/bin for one. Where a package has installed hostagent it
refuses.

Exit status: 0 installed and running, 78 the configuration is wrong and nothing was done, 2 anything else.`,
		Example: `  sudo install -m 0755 hostagent /usr/local/bin/hostagent
  sudo /usr/local/bin/hostagent service install`,
		Args: noArguments,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := errors.Join(needsSystemd(), needsRoot(cmd)); err != nil {
			return err
		}
		release, err := lockUnits()
		if err != nil {
			return err
		}
		defer release()
		plan, err := planInstallation()
		if err != nil {
			return err
		}
		unix.Umask(0o022) // everybody may read what is installed, whatever the caller's files are like
		if err := plan.carryOut(cmd); err != nil {
			return fmt.Errorf("%w\nwhat is named above stands; mend this and call it again, or undo it: sudo %s service uninstall --purge",
				err, plan.program)
		}
		return nil
	}
	return cmd
}

// installation is all that an installation will do, decided before the first file is written.
type installation struct {
	program  string
	units    []unitFile
	makeUser bool
	config   *config.Config // as the service will read it
	observe  bool           // the configuration is still to be written
}

func planInstallation() (*installation, error) {
	if err := refusePackaged(func(manager string) string {
		return fmt.Sprintf("use systemctl for the service, and %s for another version", manager)
	}); err != nil {
		return nil, err
	}
	plan := new(installation)
	var err, unitErr, userErr, configErr error
	if plan.program, err = ownProgram(); err != nil {
		return nil, err
	}
	plan.units, unitErr = unitFiles(plan.program)
	plan.makeUser, userErr = needsUser()
	plan.config, configErr = serviceConfig()
	if configErr != nil {
		return nil, errors.Join(unitErr, userErr, &exitError{exitConfig, configErr})
	}
	plan.observe = len(plan.config.Files) == 0
	return plan, errors.Join(unitErr, userErr)
}

// serviceConfig reads the configuration as the service will, so without the environment of who installs it, and refuses
// what the service would refuse.
func serviceConfig() (*config.Config, error) {
	c, err := config.Load()
	if err == nil {
		err = c.Validate()
	}
	if err == nil && c.Mode == "" && len(c.Files) > 0 {
		err = errNoMode
	}
	if err == nil {
		err = hasHere(c)
	}
	return c, err
}

// carryOut does what is planned and tells of each step as it is done, so that it is known what stands where one fails.
func (i *installation) carryOut(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if i.makeUser {
		if err := makeUser(ctx); err != nil {
			return err
		}
		if err := output(cmd, "made: user "+systemd.User+"\n"); err != nil {
			return err
		}
	}
	if i.observe {
		if err := i.writeConfig(cmd); err != nil {
			return err
		}
	}
	for _, unit := range i.units {
		if err := unit.install(ctx); err != nil {
			return err
		}
		did := "written, enabled"
		switch {
		case unit.same:
			did = "as it was"
		case unit.stands:
			did = "rewritten, enabled"
		}
		if err := output(cmd, fmt.Sprintf("%s: %s\n", did, unit.path)); err != nil {
			return err
		}
	}
	if _, err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return i.start(cmd)
}

func (i *installation) writeConfig(cmd *cobra.Command) error {
	if err := writeFile(configFile, packaging.Config()); err != nil {
		return err
	}
	var err error
	if i.config, err = serviceConfig(); err != nil {
		return err
	}
	return output(cmd, "written: "+configFile+", which observes\n")
}

// start starts what runs at boot, and the service, with this program in place of an older one. What runs at boot is not
// started again where it has run: that would have nothing to restore. A failure of it keeps the service from nothing.
func (i *installation) start(cmd *cobra.Command) error {
	var errs error
	for _, unit := range i.units {
		verb := verbOf("start")
		if unit.name == systemd.Guard {
			verb = verbOf("restart")
		}
		errs = errors.Join(errs, startUnit(cmd.Context(), verb, unit.name))
	}
	state, err := showUnit(cmd.Context(), systemd.Guard)
	if err := errors.Join(errs, err); err != nil {
		return err
	}
	if !state.running() {
		return fmt.Errorf("%s does not run%s", systemd.Guard, whyFailed(cmd.Context(), systemd.Guard))
	}
	return output(cmd, state.text()+i.next())
}

func startUnit(ctx context.Context, verb serviceVerb, unit string) error {
	state, err := showUnit(ctx, unit)
	if err == nil {
		err = resetFailed(ctx, state)
	}
	if err != nil {
		return err
	}
	return verb.run(ctx, unit)
}

// next says what is left to do: the line that turns guarding on.
func (i *installation) next() string {
	if i.config.Mode != config.ModeObserve {
		return "It guards the sidecar range. What it guards and has found: hostagent status\n"
	}
	text := "It observes: no port is opened or closed. What guarding would change: hostagent firewall plan\n"
	source, err := os.ReadFile(configFile)
	if err != nil || len(i.config.Files) != 1 || filepath.Clean(i.config.Files[0]) != configFile || !strings.Contains("\n"+string(source), "\nmode = ") {
		return text + `To guard: mode = "guard" in ` + config.DefaultPath + ", then systemctl reload hostagent\n"
	}
	return text + "To guard the sidecar range from now on:\n  " + packaging.Guard + "\n"
}
