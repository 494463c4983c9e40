// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// CAConfig is how the certificate authority of the mesh is configured.
type CAConfig struct {
	Provider string // "consul", "vault", "aws-pca", …
	// LeafTTL is a duration as Consul writes it: "72h"; "" where it is not told, and no duration where it cannot be read.
	LeafTTL string
	// OwnKey and OwnRoot tell that the operator gave the built-in provider its key or root certificate.
	OwnKey, OwnRoot bool
}

// CAConfig asks how the certificate authority of the mesh is configured; the token needs operator:write, with Consul 1.8 to
// 1.21. Keys in the answer are dropped at once. An agent whose datacenter does without the mesh says so with an error of
// KindMeshOff.
func (c *Client) CAConfig(ctx context.Context) (CAConfig, error) {
	got, err := c.get(ctx, "/v1/connect/ca/configuration", "")
	if err != nil {
		return CAConfig{}, needing(err, `operator = "write"`)
	}
	defer clear(got.body) // an operator's key stands there as it is
	config, err := decodeCAConfig(got.body)
	if err != nil {
		return CAConfig{}, c.malformed("configuration of the mesh's certificate authority", err)
	}
	return config, nil
}

func decodeCAConfig(body []byte) (CAConfig, error) {
	var raw struct {
		Provider string
		Config   map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return CAConfig{}, unquoted(err)
	}
	if raw.Provider == "" {
		return CAConfig{}, errors.New("it names no provider")
	}
	config := CAConfig{Provider: raw.Provider}
	for key, value := range raw.Config {
		// What came through the API has the key as it was written there, what came from files has Consul's own spelling.
		switch strings.ToLower(strings.ReplaceAll(key, "_", "")) {
		case "leafcertttl":
			config.LeafTTL = durationText(value)
		case "privatekey":
			config.OwnKey = config.OwnKey || isGiven(value)
		case "rootcert":
			config.OwnRoot = config.OwnRoot || isGiven(value)
		}
		clear(value)
	}
	if config.Provider != "consul" {
		config.OwnKey, config.OwnRoot = false, false
	}
	return config, nil
}

// noDuration stands for a duration that is set and cannot be read: it is no default of Consul's.
const noDuration = "unreadable"

// durationText reads a duration, which may also stand as nanoseconds; "" where none is set.
func durationText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if _, err := time.ParseDuration(text); err != nil && text != "" {
			return noDuration
		}
		return text
	}
	var nanoseconds int64
	if json.Unmarshal(raw, &nanoseconds) == nil && nanoseconds > 0 {
		return time.Duration(nanoseconds).String()
	}
	return noDuration
}

// isGiven tells whether a value is there and not empty, whatever it is.
func isGiven(raw json.RawMessage) bool {
	text := strings.TrimSpace(string(raw))
	return text != "" && text != "null" && text != `""`
}
