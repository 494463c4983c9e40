// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/hashicorp/consul/api"
)

// App is an application to start.
type App struct {
	// Name stands in its greeting, "hello from NAME".
	Name string
	// Listen are the addresses it listens on, [tcp:|mptcp:|udp:]IP:PORT or unix:PATH. Without a prefix it is tcp. 0.0.0.0 is IPv4
	// only, [::] both versions. It greets each connection, then echoes; it answers each datagram with both in one.
	Listen []string
	// Record has it say nothing, and write "connection" and what comes over it first, as in `received "GET /"`, to its log.
	Record bool
	// UID is the user and group id it runs as; 0 means the caller's. Others need root, and a binary they can reach.
	UID uint32
}

// RunningApp is an application that was started. Rebind may not be called concurrently with anything else.
type RunningApp struct {
	// Process is the running program, or the last one that ran.
	*Process

	host *Host
	app  App
}

// StartApp starts an application in the host and returns when it listens on all its addresses.
func (h *Host) StartApp(ctx context.Context, app App) (*RunningApp, error) {
	running := &RunningApp{host: h, app: app}
	if err := running.start(ctx); err != nil {
		return nil, err
	}
	return running, nil
}

func (r *RunningApp) start(ctx context.Context) error {
	binary, err := Binary(ctx, AppProgram)
	if err != nil {
		return err
	}
	if r.app.UID != 0 {
		dir, err := os.MkdirTemp("", "hostagent-app-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if binary, err = publicCopy(binary, dir); err != nil {
			return err
		}
	}
	args := []string{"-name", r.app.Name, fmt.Sprintf("-record=%t", r.app.Record)}
	for _, address := range r.app.Listen {
		args = append(args, "-listen", address)
	}
	cmd := r.host.Command(context.Background(), binary, args...)
	if r.app.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.app.UID, Gid: r.app.UID}
	}
	r.Process, err = r.host.Start("app "+r.app.Name, cmd)
	if err != nil {
		return err
	}
	if err := r.WaitLog(ctx, "ready\n"); err != nil {
		return errors.Join(err, r.Stop())
	}
	return nil
}

// publicCopy copies a program into dir, which every user may enter then, and returns its path there.
func publicCopy(program, dir string) (string, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(program))
	return path, errors.Join(os.WriteFile(path, text, 0o755), os.Chmod(path, 0o755), os.Chmod(dir, 0o755)) //nolint:gosec // meant for everybody
}

// Rebind stops the application and starts it again on other addresses.
func (r *RunningApp) Rebind(ctx context.Context, listen ...string) error {
	if err := r.Stop(); err != nil {
		return err
	}
	r.app.Listen = slices.Clone(listen)
	return r.start(ctx)
}

// StartSidecar starts Consul's built-in proxy as the sidecar of a service registered with one, and returns when it
// listens. It speaks real mTLS and asks the agent about intentions.
func (h *Host) StartSidecar(ctx context.Context, serviceID string) (*Process, error) {
	consul, err := h.agent()
	if err != nil {
		return nil, fmt.Errorf("cannot start sidecar of %q: %w", serviceID, err)
	}
	proxy, _, err := consul.api.Agent().Service(serviceID+"-sidecar-proxy", (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("cannot start sidecar of %q: %w (is it registered with a sidecar_service?)", serviceID, err)
	}
	if proxy.Port < 1 || proxy.Port > 65535 {
		return nil, fmt.Errorf("cannot start sidecar of %q: its port is %d", serviceID, proxy.Port)
	}
	port := uint16(proxy.Port)
	if taken, err := h.Local.Listening(port); err != nil || taken {
		return nil, errors.Join(fmt.Errorf("cannot start sidecar of %q: port %d must be free", serviceID, port), err)
	}
	binary, err := ConsulBinary(ctx, io.Discard)
	if err != nil {
		return nil, err
	}
	cmd := h.Command(context.Background(), binary, "connect", "proxy", "-sidecar-for", serviceID)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+ConsulAddress, "CONSUL_HTTP_TOKEN="+consul.token)
	process, err := h.Start("sidecar "+serviceID, cmd)
	if err != nil {
		return nil, err
	}
	err = process.wait(ctx, fmt.Sprintf("it listens on port %d", port), func(context.Context) error {
		if listening, err := h.Local.Listening(port); err != nil || listening {
			return err
		}
		return errors.New("not listening")
	})
	if err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return process, nil
}

// StateDir is where the host's hostagent keeps its state: hosts share /var/lib.
func (h *Host) StateDir() string { return filepath.Join(h.Dir, "state") }

// Configure writes config into a folder of its own, for `hostagent --config`, beside what makes hostagent keep its state
// in StateDir where config names no state_dir.
func (h *Host) Configure(config string) (dir string, err error) {
	if dir, err = os.MkdirTemp(h.Dir, "hostagent-"); err != nil {
		return "", fmt.Errorf("cannot make hostagent's configuration: %w", err)
	}
	for name, text := range map[string]string{
		"00-state.hcl": fmt.Sprintf("state_dir = %q\n", h.StateDir()), "hostagent.hcl": config,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("cannot write hostagent's configuration: %w", err)
		}
	}
	return dir, nil
}

// StartHostagent writes config into a folder of its own and starts `hostagent run --config FOLDER args...` in the host,
// with CONSUL_HTTP_ADDR set to the host's agent. It does not wait for anything: see Process.WaitLog.
func (h *Host) StartHostagent(ctx context.Context, config string, args ...string) (*Process, error) {
	binary, err := Binary(ctx, HostagentProgram)
	if err != nil {
		return nil, err
	}
	dir, err := h.Configure(config)
	if err != nil {
		return nil, err
	}
	cmd := h.Command(context.Background(), binary, append([]string{"run", "--config", dir}, args...)...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+ConsulAddress)
	return h.Start("hostagent", cmd)
}
