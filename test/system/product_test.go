// SPDX-License-Identifier: MPL-2.0

package system

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// managementToken is the token of Consul's operator where ACLs deny by default.
const managementToken = "11111111-2222-3333-4444-555555555555"

// product is a booted host of a mesh with a real Consul, on which hostagent is installed, used and removed as operators do.
type product struct{ *host }

// newProduct boots a host that has Consul as a unit, in the manner of its own package, and not yet hostagent. With deny, ACLs
// deny by default.
func newProduct(t testing.TB, deny bool) *product {
	t.Helper()
	p := &product{newHost(t)}
	p.Write("/etc/consul.d/consul.hcl", fmt.Sprintf(`server           = true
bootstrap_expect = 1
node_name        = "host"
data_dir         = "/opt/consul"
bind_addr        = %q
client_addr      = "127.0.0.1"
retry_join       = [%[1]q] # Consul tells systemd that it is ready when it has joined somebody
disable_update_check = true
connect { enabled = true }
performance { raft_multiplier = 1 }
`, p.Address), 0o640)
	if deny {
		p.token = managementToken
		p.Write("/etc/consul.d/acl.hcl", fmt.Sprintf(`acl {
  enabled        = true
  default_policy = "deny"
  tokens {
    initial_management = %q
    agent              = %[1]q
  }
}
`, p.token), 0o640)
	}
	p.Write("/etc/systemd/system/consul.service", `[Unit]
Description=Consul
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
User=consul
Group=consul
ExecStart=/usr/bin/consul agent -config-dir=/etc/consul.d
ExecReload=/bin/kill --signal HUP $MAINPID
KillMode=process
Restart=on-failure
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
`, 0o644)
	p.Boot()
	p.Shell(`useradd --system --user-group --home-dir /opt/consul --create-home --shell /bin/false consul
		chown -R consul:consul /etc/consul.d
		systemctl enable --quiet --now consul.service`)
	p.consulIsUp()
	return p
}

// sidecar runs Consul's own proxy as the sidecar of a service.
func (p *product) sidecar(service string, port int) {
	p.t.Helper()
	p.unit(service+"-sidecar", "/usr/bin/consul connect proxy -sidecar-for "+service, []string{"After=consul.service"},
		[]string{"User=consul", "Environment=CONSUL_HTTP_TOKEN=" + p.token, "Restart=on-failure"})
	p.listens(strconv.Itoa(port))
}

// grantToken gives hostagent a token that has the policy that it asks for itself, and tells it where that is.
func (p *product) grantToken() {
	p.t.Helper()
	policy := p.Run("env", "CONSUL_HTTP_TOKEN="+p.token, "hostagent", "acl-policy")
	body, err := json.Marshal(map[string]string{"Name": "hostagent", "Rules": policy})
	if err != nil {
		p.t.Fatal(err)
	}
	p.consul("PUT", "/v1/acl/policy", string(body), nil)
	var token struct{ SecretID string }
	p.consul("PUT", "/v1/acl/token", `{"Policies": [{"Name": "hostagent"}]}`, &token)
	p.Write("/etc/hostagent.d/token", token.SecretID+"\n", 0o600)
	p.Write("/etc/hostagent.d/consul.hcl", "consul { token_file = \"/etc/hostagent.d/token\" }\n", 0o644)
	p.Run("systemctl", "reload", "hostagent")
}

// check is a result of hostagent in Consul.
type check struct{ Name, Status, Output string }

// checks are all of hostagent's results that the agent has, by name.
func (p *product) checks() map[string]check {
	p.t.Helper()
	var all map[string]check
	p.consul("GET", "/v1/agent/checks?filter=ServiceName==hostagent", "", &all)
	named := make(map[string]check, len(all))
	for _, c := range all {
		named[c.Name] = c
	}
	return named
}

// checkTurns waits until a result has the status, and its output the text.
func (p *product) checkTurns(name, status, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("check %q is %s with %q", name, status, text), func() error {
		c := p.checks()[name]
		if c.Status != status || !strings.Contains(oneLine(c.Output), text) {
			return fmt.Errorf("it is %q with %s", cmp.Or(c.Status, "not there"), c.Output)
		}
		return nil
	})
}

// configure writes the operator's own file and reloads.
func (p *product) configure(text string) {
	p.t.Helper()
	p.Write(own, text, 0o644)
	p.Run("systemctl", "reload", "hostagent")
}
