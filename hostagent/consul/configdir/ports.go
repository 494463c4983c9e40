// SPDX-License-Identifier: MPL-2.0

package configdir

import "fmt"

// checkPorts refuses what an agent refuses of its merged ports, and takes it out of the settings: what is predicted then
// is what the agent would do without it. Consul's defaults stand where no file says anything.
func (c *Config) checkPorts() {
	for _, name := range []string{
		"dns", "http", "https", "server", "grpc", "grpc_tls", "serf_lan", "serf_wan", "proxy_min_port", "proxy_max_port",
		"sidecar_min_port", "sidecar_max_port", "expose_min_port", "expose_max_port",
	} {
		port := c.port("ports."+name, 1)
		switch {
		case port > 65535:
			c.portProblem(name, "must not be higher than 65535")
			delete(c.Settings.values, "ports."+name)
		case port < 1 && (name == "server" || name == "serf_lan"):
			c.portProblem(name, "must be greater than zero")
			delete(c.Settings.values, "ports."+name)
		}
	}
	for _, r := range []struct {
		name   string
		lo, hi int
	}{{"proxy", 20000, 20255}, {"sidecar", defaultSidecarMin, defaultSidecarMax}, {"expose", defaultExposeMin, defaultExposeMax}} {
		lo, hi := c.port("ports."+r.name+"_min_port", r.lo), c.port("ports."+r.name+"_max_port", r.hi)
		if hi < lo {
			c.portProblem(r.name+"_max_port", fmt.Sprintf("must not be lower than %s_min_port; set both to zero for none", r.name))
			delete(c.Settings.values, "ports."+r.name+"_min_port")
			delete(c.Settings.values, "ports."+r.name+"_max_port")
		}
	}
}

// portProblem blames a setting, or else the other end of its range: one of them is set.
func (c *Config) portProblem(name, wrong string) {
	key := "ports." + name
	setting, ok := c.Settings.Lookup(key)
	if !ok {
		setting, _ = c.Settings.Lookup(key[:len(key)-len("max_port")] + "min_port")
	}
	c.Problems = append(c.Problems, Problem{File: setting.File, Line: setting.Line, Reason: key + " " + wrong})
}
