// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
)

// maxIntentions is how many intentions are taken in.
const maxIntentions = 50_000

// Intention is a rule about who may call whom.
type Intention struct {
	// Source and Destination are names of services, "*" for all. One of another namespace or partition than the default one,
	// or of a peer or a sameness group, has that in front: "team/web", "peer:east/web".
	Source, Destination string
	Allow               bool // false: it denies, or decides by request with HTTP
	ByRequest           bool // permissions for HTTP requests decide
}

// Intentions asks for the intentions of the datacenter, sorted. The token sees those of services on which it has
// intentions:read; whether it sees all is not told, so that who asks finds out with Authorize. An agent whose datacenter does
// without the mesh says so with an error of KindMeshOff.
func (c *Client) Intentions(ctx context.Context) ([]Intention, error) {
	got, err := c.get(ctx, "/v1/connect/intentions", "")
	if err != nil {
		return nil, err
	}
	if isFiltered(got) { // Consul 1.21 does not say it here
		return nil, &Error{Kind: KindFiltered, Err: errors.New("it left intentions out, because the token lacks intentions:read on some"),
			Fix: `give it service_prefix "" { policy = "read" intentions = "read" }`}
	}
	intentions, err := decodeIntentions(got.body)
	if err != nil {
		return nil, c.malformed("list of intentions", err)
	}
	return intentions, nil
}

func decodeIntentions(body []byte) ([]Intention, error) {
	type entry struct {
		SourcePartition, SourceNS, SourceName, SourcePeer, SourceSamenessGroup string
		DestinationPartition, DestinationNS, DestinationName                   string
		Action                                                                 string
		Permissions                                                            []struct{}
	}
	entries, err := decodeList[entry](body, maxIntentions, "intentions")
	if err != nil {
		return nil, err
	}
	intentions := []Intention{}
	for _, e := range entries {
		if e.SourceName == "" || e.DestinationName == "" {
			return nil, errors.New("an intention names no source or no destination")
		}
		i := Intention{
			Source:      placed(e.SourceName, e.SourceNS, e.SourcePartition),
			Destination: placed(e.DestinationName, e.DestinationNS, e.DestinationPartition),
			Allow:       e.Action == "allow", ByRequest: len(e.Permissions) > 0,
		}
		switch {
		case e.SourcePeer != "":
			i.Source = "peer:" + e.SourcePeer + "/" + i.Source
		case e.SourceSamenessGroup != "":
			i.Source = "sameness-group:" + e.SourceSamenessGroup + "/" + i.Source
		}
		if i.ByRequest == (e.Action != "") || e.Action != "" && e.Action != "allow" && e.Action != "deny" {
			return nil, errors.New("an intention neither allows nor denies, nor decides by request")
		}
		intentions = append(intentions, i)
	}
	slices.SortFunc(intentions, func(a, b Intention) int {
		return cmp.Or(cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Source, b.Source))
	})
	return intentions, nil
}

// placed writes a name with its namespace and partition, where they are not the default ones. All services of all namespaces
// are "*".
func placed(name, namespace, partition string) string {
	if namespace == "*" && name == "*" {
		namespace = ""
	}
	for _, in := range []string{namespace, partition} {
		if in != "" && !strings.EqualFold(in, "default") {
			name = in + "/" + name
		}
	}
	return name
}
