// SPDX-License-Identifier: MPL-2.0

package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ConsulAddress is where the host's agent serves its API, inside the host.
const ConsulAddress = "127.0.0.1:8500"

// ConsulOptions are the choices of StartConsul. The zero value is a good one.
type ConsulOptions struct {
	// Config is HCL that is read after the base configuration and after ConfigDir: its scalars win.
	Config string
	// ConfigDir is a folder of configuration and service definitions, read as Consul reads -config-dir. Empty means none.
	ConfigDir string
	// DataDir keeps the agent's state. Empty means a folder in the host's.
	DataDir string
	// ClientAddr is where the API and the UI listen. Empty means 127.0.0.1; whatever it is must include that one.
	ClientAddr string
	// NodeName is the agent's name. Empty means "host".
	NodeName string
	// Token is what API, StartSidecar and MeshDial send. Empty means none.
	Token string
}

// Consul is the host's Consul agent: a server that is a cluster by itself. Its methods may be called concurrently with
// each other, except with Stop and Restart.
type Consul struct {
	// Process is the running agent, or the last one that ran.
	*Process

	host  *Host
	args  []string
	token string
	api   *api.Client
}

// StartConsul starts a Consul server in the host and returns when it has a leader and the mesh has an active root
// certificate; ctx bounds that wait only. There is one agent a host.
func (h *Host) StartConsul(ctx context.Context, options ConsulOptions) (*Consul, error) {
	c := &Consul{host: h, token: options.Token}
	h.mu.Lock()
	taken := h.consul != nil
	if !taken {
		h.consul = c
	}
	h.mu.Unlock()
	if taken {
		return nil, errors.New("cannot start consul: the host has an agent already (use its Restart)")
	}
	err := c.configure(options)
	if err != nil {
		err = fmt.Errorf("cannot configure consul: %w", err)
	} else {
		err = c.start(ctx)
	}
	if err != nil {
		h.mu.Lock()
		h.consul = nil
		h.mu.Unlock()
		return nil, err
	}
	return c, nil
}

// configure writes the configuration and decides on the arguments, which outlive a restart.
func (c *Consul) configure(options ConsulOptions) (err error) {
	// The client would read settings that are empty here from the environment, where Prepare leaves none.
	c.api, err = api.NewClient(&api.Config{Address: ConsulAddress, Scheme: "http", HttpClient: c.host.http, Token: options.Token})
	if err != nil {
		return err
	}
	base := fmt.Sprintf(`server = true
bootstrap_expect = 1
node_name = %q
data_dir = %q
bind_addr = %q
client_addr = %q
disable_update_check = true
connect { enabled = true }
performance { raft_multiplier = 1 }
ui_config { enabled = true }
`, cmp.Or(options.NodeName, "host"), cmp.Or(options.DataDir, filepath.Join(c.host.Dir, "consul-data")), IPv4,
		cmp.Or(options.ClientAddr, "127.0.0.1"))
	dir := filepath.Join(c.host.Dir, "consul")
	baseFile, extraFile := filepath.Join(dir, "base.hcl"), filepath.Join(dir, "extra.hcl")
	err = errors.Join(os.MkdirAll(dir, 0o700),
		os.WriteFile(baseFile, []byte(base), 0o600), // may hold tokens
		os.WriteFile(extraFile, []byte(options.Config), 0o600))
	if err != nil {
		return err
	}
	c.args = []string{"agent", "-config-file", baseFile}
	if options.ConfigDir != "" {
		c.args = append(c.args, "-config-dir", options.ConfigDir)
	}
	c.args = append(c.args, "-config-file", extraFile)
	return nil
}

func (c *Consul) start(ctx context.Context) error {
	binary, err := ConsulBinary(ctx, io.Discard)
	if err != nil {
		return err
	}
	process, err := c.host.Start("consul", c.host.Command(context.Background(), binary, c.args...))
	if err != nil {
		return err
	}
	c.Process = process
	if err := process.wait(ctx, "the mesh is up", c.ready); err != nil {
		return errors.Join(err, process.Stop())
	}
	return nil
}

// ready returns nil when the agent has a leader and its CA an active root: without one no leaf can be had.
func (c *Consul) ready(ctx context.Context) error {
	query := (&api.QueryOptions{}).WithContext(ctx)
	leader, err := c.api.Status().LeaderWithQueryOptions(query)
	if err != nil {
		return err
	}
	if leader == "" {
		return errors.New("no leader")
	}
	roots, _, err := c.api.Agent().ConnectCARoots(query)
	if err != nil {
		return err
	}
	for _, root := range roots.Roots {
		if root.ID == roots.ActiveRootID {
			return nil
		}
	}
	return errors.New("no active root certificate")
}

// RaftIndex returns the index of the last entry of the server's log. A server without clients adds a few every minute.
func (c *Consul) RaftIndex() (int, error) {
	self, err := c.api.Agent().Self()
	if err != nil {
		return 0, err
	}
	raft, _ := self["Stats"]["raft"].(map[string]any)
	text, _ := raft["last_log_index"].(string)
	index, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("cannot read the server's last_log_index: %w", err)
	}
	return index, nil
}

// Synced returns how often the agent has written a service, a check or its node to the servers, by its log.
func (c *Consul) Synced() int { return strings.Count(c.Log(), " agent: Synced ") }

// API returns a client whose connections start inside the host and which sends the token of ConsulOptions.
func (c *Consul) API() *api.Client { return c.api }

// Reload makes the agent read its configuration again and returns when it has; the token needs agent:write.
func (c *Consul) Reload(ctx context.Context) error {
	// Agent().Reload takes no context. The command would be the same call from another process.
	_, err := c.api.Raw().Write("/v1/agent/reload", nil, nil, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot reload consul: %w", err)
	}
	return nil
}

// Restart stops the agent, where it still runs, starts it again with the same configuration and data, and waits as
// StartConsul does.
func (c *Consul) Restart(ctx context.Context) error {
	if err := c.Stop(); err != nil {
		return err
	}
	return c.start(ctx)
}

// agent returns the host's agent.
func (h *Host) agent() (*Consul, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.consul == nil {
		return nil, errors.New("the host has no consul: StartConsul comes first")
	}
	return h.consul, nil
}
