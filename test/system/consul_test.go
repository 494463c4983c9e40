// SPDX-License-Identifier: MPL-2.0

package system

import (
	"encoding/json"
	"fmt"
)

// consulUnit is a server of its own that keeps nothing.
const consulUnit = `[Unit]
After=network-online.target
[Service]
ExecStart=/usr/bin/consul agent -dev -log-level=warn
[Install]
WantedBy=multi-user.target
`

// startConsul starts Consul and waits until it answers.
func (h *host) startConsul() {
	h.t.Helper()
	h.Run("systemctl", "start", "consul")
	h.consulIsUp()
}

// consulIsUp waits until the agent has a leader and a certificate authority.
func (h *host) consulIsUp() {
	h.t.Helper()
	h.until("Consul has a leader and a certificate authority", func() error {
		leader, err := h.tryConsul("GET", "/v1/status/leader", "")
		if err == nil && len(leader) < len(`"1.2.3.4:1"`) {
			return fmt.Errorf("the leader is %s", leader)
		}
		if err == nil {
			_, err = h.tryConsul("GET", "/v1/connect/ca/roots", "")
		}
		return err
	})
}

// tryConsul sends a request to the agent as its operator, from inside of the host.
func (h *host) tryConsul(method, path, body string) (answer string, err error) {
	return h.Try("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", "--request", method,
		"--header", "X-Consul-Token: "+h.token, "--data-binary", body, "http://127.0.0.1:8500"+path)
}

// consul is tryConsul of what must succeed. An answer is decoded into a variable, where one is given.
func (h *host) consul(method, path, body string, into any) {
	h.t.Helper()
	answer, err := h.tryConsul(method, path, body)
	if err == nil && into != nil {
		err = json.Unmarshal([]byte(answer), into)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// register registers a service on port with a sidecar, on sidecarPort or, if that is 0, where Consul puts it. It returns the
// sidecar's port.
func (h *host) register(name string, port, sidecarPort int) int {
	h.t.Helper()
	h.consul("PUT", "/v1/agent/service/register",
		fmt.Sprintf(`{"Name": %q, "Port": %d, "Connect": {"SidecarService": {"Port": %d}}}`, name, port, sidecarPort), nil)
	var proxy struct{ Port int }
	h.consul("GET", "/v1/agent/service/"+name+"-sidecar-proxy", "", &proxy)
	return proxy.Port
}
