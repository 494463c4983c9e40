// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// agent is the local Consul agent, as *consul.Client is one.
type agent interface {
	localAgent
	aclAgent
	meshAgent
}

type localAgent interface {
	Running(context.Context) (consul.Running, error)
	Services(context.Context) (consul.Answer, error)
	Servers(context.Context) ([]consul.Server, error)
}

type aclAgent interface {
	Authorize(ctx context.Context, anonymous bool, rights ...consul.Right) ([]bool, error)
	Tokens(context.Context) (consul.Tokens, error)
	Keyrings(context.Context) ([]consul.Keyring, error)
}

type meshAgent interface {
	Authority(context.Context) (consul.Authority, error)
	CAConfig(context.Context) (consul.CAConfig, error)
	Intentions(context.Context) ([]consul.Intention, error)
}

// Sources say where Look looks.
type Sources struct {
	Consul      agent    // nil: no agent is asked
	Address     string   // of the agent, for messages
	ConfigPaths []string // the agent's configuration; empty: where its process was told to read, if that can be seen
	// Service tells that the long-running service asks: it reads no file that may hold a token, asks no server but the local
	// agent, and needs no right beyond those of its own policy.
	Service bool
	Root    bool // the process is root's
	Host    Seen[Host]
	PID     int    // of the process that listens at the agent's HTTP address on this host; 0 where it is not known
	Unit    string // the systemd unit of that process; "" for none, and where it is not known
}

const (
	lookWithin = 20 * time.Second // for all of a Look
	procDir    = "/proc"
	asRoot     = "run as root"
	whereItIs  = "run it where the agent runs, while it runs"
	asAuditor  = "run hostagent audit as root"
	giveConfig = "--consul-config with the agent's configuration"
)

// Look gathers what an audit needs. What cannot be seen is no error: it is unknown in the Input. The agent is asked by the
// calling goroutine alone. Look takes 20 s at most, beside what a file system takes that hangs.
func Look(ctx context.Context, from Sources) Input {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	in := Input{Now: time.Now(), Host: from.Host}
	l := &looking{from: from, in: &in, accounts: readAccounts("")}
	in.Process = l.readProcess(procDir)
	if from.Consul == nil && from.PID <= 0 {
		in.Process = Unseen[Process]("no agent was asked", "run it without --offline on the agent's host")
	}
	l.readConfiguration()
	if !in.ConfigFiles.Known {
		in.Rewritten = l.readRewritten(procDir)
	}
	servers := l.ask(ctx)
	l.readData()
	in.AgentCertificates = l.readCertificates()
	in.ServerCertificates = serversShow(ctx, &in, servers)
	return in
}

// readConfiguration reads the agent's files, and looks at who may read and write them.
func (l *looking) readConfiguration() {
	unseen := func(reason, needs string) {
		l.in.Disk = Unseen[*configdir.Config](reason, needs)
		l.in.ConfigFiles, l.in.KeyFiles = Unseen[[]File](reason, needs), Unseen[[]File](reason, needs)
	}
	if l.from.Service {
		unseen("the service reads no file that may hold secrets", asAuditor)
		return
	}
	if note := l.in.Process.Value.flagsNote(); note != "" {
		l.note(note)
	}
	paths, reason, needs := l.configPaths()
	if reason != "" {
		unseen(reason, needs)
		return
	}
	if len(paths) == 0 {
		unseen("the agent was started without configuration files", "")
		l.in.ConfigFiles = Known([]File{})
		return
	}
	config, err := configdir.Read(paths...)
	if err != nil {
		needs := giveConfig
		if errors.Is(err, fs.ErrPermission) {
			needs = asRoot
		}
		unseen(catalog.CleanTo(err.Error(), maxFound), needs)
		return
	}
	if len(config.Files) == 0 { // an empty folder is no configuration: Consul's defaults would be judged as if somebody ran with them
		unseen("no file that Consul would read stands in "+strings.Join(paths, ", "), giveConfig)
		return
	}
	l.in.Disk = l.wholeOf(config)
	l.in.ConfigFiles = Known(l.configFiles(paths, config))
	l.in.KeyFiles = Known(l.keyFiles(config))
	if !l.in.Disk.Known {
		l.in.KeyFiles = Unseen[[]File](l.in.Disk.Reason, l.in.Disk.Needs)
	}
}

// configPaths are what the agent reads, or why they are not known; none where it reads no file.
func (l *looking) configPaths() (paths []string, reason, needs string) {
	if len(l.from.ConfigPaths) > 0 {
		return l.from.ConfigPaths, "", ""
	}
	switch {
	case !l.in.Process.Known:
		needs := giveConfig
		if !l.from.Root {
			needs = asRoot + ", or " + giveConfig
		}
		return nil, "where its files are is not known: " + l.in.Process.Reason, needs
	case !l.from.Root:
		return nil, "where its files are was not asked of its process", asRoot + ", or " + giveConfig
	case l.started.nowhere:
		return nil, "it was started with a relative path, and in which folder cannot be seen", giveConfig
	}
	for _, path := range l.started.paths {
		if l.isElsewhere(procDir, path) {
			return nil, fmt.Sprintf("the agent sees other files at %s than this host, as in a container", path),
				giveConfig + ", at its path on this host"
		}
	}
	return l.started.paths, "", ""
}

const mostProblems = 5 // of configuration files that are told

// wholeOf makes config what is known, unless a part of it could not be read: where a setting might stand, no default of
// Consul's counts.
func (l *looking) wholeOf(config *configdir.Config) Seen[*configdir.Config] {
	for i, problem := range config.Problems {
		if i == mostProblems {
			l.note("configuration: " + plural(len(config.Problems)-i, "more problem"))
			break
		}
		l.note("configuration: " + problem.Error())
	}
	for _, path := range config.Files {
		if _, read := config.Secrets[path]; !read {
			return Unseen[*configdir.Config](path+" cannot be read, so that what the files say is not whole", asRoot+", and mend the file")
		}
	}
	for _, problem := range config.Problems {
		if !slices.Contains(config.Files, problem.File) {
			return Unseen[*configdir.Config]("there is too much to read all of it", "")
		}
	}
	return Known(config)
}

// readData looks at who may read and write the agent's data, and reads from it which token each registration has.
func (l *looking) readData() {
	dir := l.dataDir()
	const why = "in which folder is not known"
	switch {
	case l.from.Service:
		l.in.InstanceTokens = Unseen[[]InstanceToken]("the service reads no file that may hold secrets", asAuditor)
	case !l.from.Root:
		l.in.InstanceTokens = Unseen[[]InstanceToken]("only root may read where tokens are kept", asRoot)
	}
	switch {
	case dir == "":
		needs := giveConfig
		if !l.in.Running.Known && l.in.Running.Needs != "" {
			needs = l.in.Running.Needs
		}
		l.in.DataFiles = Unseen[[]File](why, needs)
		if l.in.InstanceTokens.Reason == "" {
			l.in.InstanceTokens = Unseen[[]InstanceToken](why, needs)
		}
		return
	case l.isElsewhere(procDir, dir):
		reason := fmt.Sprintf("the agent sees another folder at %s than this host, as in a container", dir)
		l.in.DataFiles = Unseen[[]File](reason, "run it where the agent runs")
		if l.in.InstanceTokens.Reason == "" {
			l.in.InstanceTokens = Unseen[[]InstanceToken](reason, "run it where the agent runs")
		}
		return
	}
	l.in.DataFiles = Known(l.dataFiles(dir))
	if l.from.Root && !l.from.Service {
		l.in.InstanceTokens = readInstanceTokens(dir, l.in.Disk)
	}
}

// dataDir is where the agent keeps its data, "" where that is not known.
func (l *looking) dataDir() string {
	if dir := l.in.Running.Value.DataDir; l.in.Running.Known && dir != "" {
		return dir
	}
	if l.in.Disk.Known {
		setting, _ := l.in.Disk.Value.Settings.Lookup("data_dir")
		dir, _ := setting.Value.(string)
		return dir
	}
	return ""
}

func (l *looking) note(text string) {
	if text = catalog.CleanTo(text, maxFound); !slices.Contains(l.in.Notes, text) {
		l.in.Notes = append(l.in.Notes, text)
	}
}
