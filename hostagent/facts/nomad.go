// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// Nomad is the ports that the Nomad client of this host gives to jobs.
type Nomad struct {
	// First to Last are the ports of which it chooses for jobs that ask for any (min_dynamic_port, max_dynamic_port).
	First, Last uint16
	// Reserved are the ports that it gives to no job (client.reserved.reserved_ports), ascending.
	Reserved []PortSpan
	// Source is where this was read, "its agent at 127.0.0.1:4646" or the paths of files.
	Source string
}

// The range where nothing is configured, https://developer.hashicorp.com/nomad/docs/configuration/client#min_dynamic_port.
const (
	nomadFirst = 20000
	nomadLast  = 32000
)

const (
	// agentPatience is how long Nomad's agent has for its answer, which is a part of Read's time.
	agentPatience = 800 * time.Millisecond
	// longestAnswer is what is read of it: a large cluster's agent writes some 100 kB.
	longestAnswer = 4 << 20
)

// clientSettings is what matters of Nomad's client settings. Zero values were not set.
type clientSettings struct {
	enabled     bool
	first, last int64
	reserved    string
}

// merge lays later settings over c, as Nomad does: enabled is never taken back.
func (c *clientSettings) merge(later clientSettings) {
	c.enabled = c.enabled || later.enabled
	c.first, c.last = cmp.Or(later.first, c.first), cmp.Or(later.last, c.last)
	c.reserved = cmp.Or(later.reserved, c.reserved)
}

// readNomad asks Nomad's agent, which knows what its command line and environment say too. Where that does not tell, its
// configuration does.
func (f *Facts) readNomad(ctx context.Context, opts Options) {
	address := cmp.Or(opts.NomadAddress, "http://127.0.0.1:4646")
	settings, source, err := askAgent(ctx, address)
	if err != nil {
		// Nobody listens there: that is no news on a host without Nomad.
		if !errors.Is(err, syscall.ECONNREFUSED) {
			f.note("cannot ask Nomad's agent at %s: %v", address, err)
		}
		paths := opts.NomadConfig
		if paths == nil {
			paths = []string{"/etc/nomad.d"}
		}
		settings, source = f.readNomadConfig(paths)
	}
	if !settings.enabled {
		return
	}
	first, last := cmp.Or(settings.first, nomadFirst), cmp.Or(settings.last, nomadLast)
	if first < 1 || last > 65535 || first > last {
		f.note("Nomad's dynamic ports %d-%d, by %s, are no range of ports", first, last, source)
		return
	}
	reserved, err := parseSpans(settings.reserved)
	if err != nil {
		f.note("cannot read all of Nomad's reserved_ports, by %s: %v", source, err)
	}
	f.Nomad = &Nomad{First: uint16(first), Last: uint16(last), Reserved: reserved, Source: clean(source)}
}

// askAgent asks for the configuration that an agent runs with, https://developer.hashicorp.com/nomad/api-docs/agent#query-self.
// Its port is an unprivileged one, so while Nomad is down anybody of this host may answer: nothing is told to it, and of
// what it says only numbers are kept.
func askAgent(ctx context.Context, address string) (settings clientSettings, source string, err error) {
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return settings, "", errors.New("its address is no URL http://HOST:PORT")
	}
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	target := url.URL{Scheme: base.Scheme, Host: base.Host, Path: "/v1/agent/self"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return settings, "", err
	}
	// The one connection is made here, because a transport would make it on another thread, outside the namespace.
	port := cmp.Or(base.Port(), base.Scheme) // http and https are names of ports too
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(base.Hostname(), port))
	if err != nil {
		return settings, "", err
	}
	defer conn.Close()
	client := http.Client{
		Transport: &http.Transport{
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return settings, "", errors.Unwrap(err) // without the URL, which the caller names
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return settings, "", errors.New("it answers 403: its ACLs want a token with agent:read, and none is sent")
	default:
		return settings, "", fmt.Errorf("it answers %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer+1))
	if err != nil {
		return settings, "", err
	}
	settings, err = parseAgent(body)
	return settings, "its agent at " + base.Host, err
}

// parseAgent reads the answer to /v1/agent/self. Agents from before the dynamic ports could be configured leave them out,
// and those that are no client too.
func parseAgent(body []byte) (clientSettings, error) {
	var self struct {
		Config *struct {
			Client *struct {
				Enabled                        bool
				MinDynamicPort, MaxDynamicPort int64
				Reserved                       struct{ ReservedPorts string }
			}
		} `json:"config"`
	}
	if len(body) > longestAnswer {
		return clientSettings{}, fmt.Errorf("its answer has more than %d bytes", longestAnswer)
	}
	if err := json.Unmarshal(body, &self); err != nil {
		return clientSettings{}, errors.New("its answer is not that of a Nomad agent")
	}
	if self.Config == nil || self.Config.Client == nil {
		return clientSettings{}, errors.New("its answer says nothing of a Nomad client")
	}
	client := self.Config.Client
	return clientSettings{client.Enabled, client.MinDynamicPort, client.MaxDynamicPort, client.Reserved.ReservedPorts}, nil
}
