// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// addDefinitions gives cmd the flag that names where service definitions are read instead of asking an agent.
func addDefinitions(cmd *cobra.Command) *[]string {
	paths := cmd.Flags().StringArray("consul-config", nil,
		"`path` of an agent's configuration file or folder, repeatable: read service definitions there instead of asking the agent")
	completeFiles(cmd, "consul-config", "hcl", "json")
	return paths
}

// definitions stand for the agent that would be started with them.
type definitions struct {
	*consul.Client // nil: looking neither reports nor withdraws
	registrations  []consul.Registration
	agent          consul.Agent
	read           *configdir.Config
}

// note tells what was read and what was not.
func (d *definitions) note() string {
	note := fmt.Sprintf("%s read", plural(len(d.read.Files), "configuration file"))
	if skipped := d.read.Skipped; len(skipped) > 0 {
		note += "; Consul reads nothing in folders of a folder: " + catalog.CleanTo(strings.Join(skipped, ", "), 500)
	}
	return note
}

// readDefinitions reads files and folders. Problems are what an agent would refuse; the rest counts all the same.
func readDefinitions(paths []string) (d *definitions, problems []error, err error) {
	// A process that looks once need not collect its garbage early: with 2,000 files that saves a fifth of the time.
	const plenty = 512 << 20 // bytes, from which it does
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(plenty))
	read, err := configdir.Read(paths...)
	if err != nil {
		return nil, nil, nearPaths(err, paths)
	}
	if len(read.Files) == 0 {
		problems = append(problems, fmt.Errorf("cannot find a file that Consul would read in %s: names end in .hcl or .json, and folders in folders do not count",
			catalog.CleanTo(strings.Join(paths, ", "), 500)))
	}
	regs, more := read.Registrations()
	for _, problem := range append(read.Problems, more...) {
		problems = append(problems, problem)
	}
	return &definitions{registrations: regs, agent: read.Agent(), read: read}, problems, nil
}

// nearPaths adds to err what the paths that do not exist were probably meant to be.
func nearPaths(err error, paths []string) error {
	for _, path := range paths {
		if near := config.ClosestPath(path); near != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, catalog.CleanTo(near, 500))
		}
	}
	return err
}

func (d *definitions) Services(context.Context) (consul.Answer, error) {
	return consul.Answer{Registrations: d.registrations}, nil
}

func (d *definitions) Agent(context.Context) (consul.Agent, error) { return d.agent, nil }
