// SPDX-License-Identifier: MPL-2.0

package system

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/machine"
)

// managementToken is the token of Consul's operator where ACLs deny by default.
const managementToken = "11111111-2222-3333-4444-555555555555"

// settleWithin bounds what hostagent, Consul or a unit may take to come to a state.
const settleWithin = 30 * time.Second

// product is a booted host of a mesh with a real Consul, on which hostagent is installed, used and removed as operators do.
type product struct {
	*machine.Machine
	t testing.TB

	token string // of Consul's operator; empty where there are no ACLs
}

// newProduct boots a host that has Consul as a unit, in the manner of its own package, and not yet hostagent. With deny, ACLs
// deny by default.
func newProduct(t testing.TB, deny bool) *product {
	t.Helper()
	consul, app := os.Getenv("CONSUL_BIN"), filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), "app")
	p := &product{t: t, Machine: machine.New(t, "--bind-ro="+consul+":/usr/bin/consul", "--bind-ro="+app+":/usr/local/bin/app")}
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
	p.Write("/usr/lib/systemd/system/consul.service", `[Unit]
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
	t.Cleanup(p.showIfFailed)
	p.Boot()
	p.Shell(`useradd --system --user-group --home-dir /opt/consul --create-home --shell /bin/false consul
		chown -R consul:consul /etc/consul.d
		systemctl enable --quiet --now consul.service`)
	p.consulIsUp()
	return p
}

// showIfFailed shows what the units of a host logged whose test failed.
func (p *product) showIfFailed() {
	if !p.t.Failed() || p.Init() == 0 {
		return
	}
	for _, unit := range []string{"hostagent*", "consul"} {
		if text, err := p.Try("journalctl", "--no-pager", "-b", "-n", "30", "-u", unit); err == nil {
			p.t.Logf("%s\n%s", unit, text)
		}
	}
}

// consulIsUp waits until the agent has a leader and a certificate authority.
func (p *product) consulIsUp() {
	p.t.Helper()
	p.until("Consul has a leader and a certificate authority", func() error {
		leader, err := p.tryConsul("GET", "/v1/status/leader", "")
		if err == nil && len(leader) < len(`"1.2.3.4:1"`) {
			return fmt.Errorf("the leader is %s", leader)
		}
		if err == nil {
			_, err = p.tryConsul("GET", "/v1/connect/ca/roots", "")
		}
		return err
	})
}

// until waits until reached returns nil.
func (p *product) until(what string, reached func() error) {
	p.t.Helper()
	for deadline := time.Now().Add(settleWithin); ; time.Sleep(100 * time.Millisecond) {
		err := reached()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not within %s: %s: %v", settleWithin, what, err)
		}
	}
}

// tryConsul sends a request to the agent as its operator, from inside of the host.
func (p *product) tryConsul(method, path, body string) (answer string, err error) {
	return p.Try("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", "--request", method,
		"--header", "X-Consul-Token: "+p.token, "--data-binary", body, "http://127.0.0.1:8500"+path)
}

// consul is tryConsul of what must succeed. An answer is decoded into a variable, where one is given.
func (p *product) consul(method, path, body string, into any) {
	p.t.Helper()
	answer, err := p.tryConsul(method, path, body)
	if err == nil && into != nil {
		err = json.Unmarshal([]byte(answer), into)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// service registers a service with a sidecar, whose port is returned.
func (p *product) service(name string, port int) (sidecar int) {
	p.t.Helper()
	p.consul("PUT", "/v1/agent/service/register", fmt.Sprintf(`{"Name": %q, "Port": %d, "Connect": {"SidecarService": {}}}`, name, port), nil)
	var proxy struct{ Port int }
	p.consul("GET", "/v1/agent/service/"+name+"-sidecar-proxy", "", &proxy)
	return proxy.Port
}

// program writes a unit, which starts with the host from now on, and starts it anew. Lines come into its sections.
func (p *product) program(name, command string, unit, service []string) {
	p.t.Helper()
	p.Write("/etc/systemd/system/"+name+".service", fmt.Sprintf("[Unit]\n%s\n[Service]\nType=exec\nExecStart=%s\n%s\n[Install]\nWantedBy=multi-user.target\n",
		strings.Join(unit, "\n"), command, strings.Join(service, "\n")), 0o644)
	p.Shell("systemctl daemon-reload; systemctl enable --quiet " + name + ".service; systemctl restart " + name + ".service")
}

// app runs an application as a unit, on addresses.
func (p *product) app(name string, addresses ...string) {
	p.t.Helper()
	p.program(name, "/usr/local/bin/app -name "+name+" -listen "+strings.Join(addresses, " -listen "), nil, []string{"User=daemon"})
	for _, address := range addresses {
		p.listens(address[strings.LastIndexByte(address, ':')+1:])
	}
}

// listens waits until something listens on a port.
func (p *product) listens(port string) {
	p.t.Helper()
	p.Wait(settleWithin, "bash", "-c", "ss -Htln 'sport = :"+port+"' | grep -q .")
}

// sidecar runs Consul's own proxy as the sidecar of a service.
func (p *product) sidecar(service string, port int) {
	p.t.Helper()
	p.program(service+"-sidecar", "/usr/bin/consul connect proxy -sidecar-for "+service, []string{"After=consul.service"},
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

// oneLine is a text without its line breaks and indentations.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// status is what hostagent status tells.
func (p *product) status() string {
	text, _ := p.Try("hostagent", "status") // its exit status says that there are findings
	return text
}

// says waits until hostagent status tells text.
func (p *product) says(text string) {
	p.t.Helper()
	p.until("hostagent status says "+text, func() error {
		if said := p.status(); !strings.Contains(oneLine(said), text) {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
}

// guard turns guarding on with the line that the installation tells.
func (p *product) guard() {
	p.t.Helper()
	p.Shell(`sed -i 's/^mode = .*/mode = "guard"/' /etc/hostagent.d/hostagent.hcl; systemctl reload hostagent`)
}

// own is the file of the configuration that the operator writes beside the package's.
const own = "/etc/hostagent.d/own.hcl"

// configure writes the operator's own file and reloads.
func (p *product) configure(text string) {
	p.t.Helper()
	p.Write(own, text, 0o644)
	p.Run("systemctl", "reload", "hostagent")
}
