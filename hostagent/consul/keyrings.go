// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	maxRings    = 1000 // two for each datacenter, more with segments of Consul Enterprise
	maxRingKeys = 100  // two or three stand there during a rotation
	// Nodes are asked over gossip, which waits for those that do not answer: 8 s between up to 9 servers (serf's query timeout),
	// twice that up to 99.
	keyringTimeout = 30 * time.Second
	maxKeyringText = 256 << 10 // of a refusal, with a line for each node
	maxProblem     = 300       // bytes
)

// Keyring are the gossip keys of one ring: a datacenter's, or that between datacenters.
type Keyring struct {
	Datacenter string
	WAN        bool
	Nodes      int // that answered
	Keys       []GossipKey
	Problem    string // nodes that did not answer, as Consul tells; "" for none
}

// GossipKey is one key of a ring.
type GossipKey struct {
	Hash    TokenHash // tells whether two rings use the same key
	Bytes   int       // length, 0 where it is no base64
	Nodes   int       // that have it
	Primary int       // nodes that send with it, -1 where the agent does not tell of any key
}

// Keyrings asks for the gossip keys of all datacenters; the token needs keyring:read. Keys become hashes at once. Without
// encryption there is none and no error. It may take half a minute where nodes do not answer.
func (c *Client) Keyrings(ctx context.Context) ([]Keyring, error) {
	const path = "/v1/operator/keyring"
	ctx, cancel := context.WithTimeout(ctx, max(c.timeout, keyringTimeout))
	defer cancel()
	got := answer{shown: maxKeyringText}
	if err := c.query(ctx, path, "", &got); err != nil {
		switch {
		case got.status == 0 || got.status == http.StatusOK: // no answer, or no whole one
			return nil, err
		case got.status == http.StatusInternalServerError && tellsNoEncryption(got.body):
			return nil, nil
		}
		said := concealKeys(string(got.body)) // what nodes say is repeated there, and cut only now
		refused := api.StatusError{Code: got.status, Body: said[:min(len(said), maxErrorBody)]}
		return nil, needing(c.failure("ask for "+path, refused), `keyring = "read"`)
	}
	defer clear(got.body)
	rings, err := decodeKeyrings(got.body)
	if err != nil {
		return nil, c.malformed("list of gossip keys", err)
	}
	return rings, nil
}

func decodeKeyrings(body []byte) ([]Keyring, error) {
	type ring struct {
		WAN         bool
		Datacenter  string
		Messages    map[string]string
		Keys        map[string]int
		PrimaryKeys map[string]int
		NumNodes    int
		Error       string
	}
	raw, err := decodeList[ring](body, maxRings, "rings")
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 { // would read as if there were no encryption, which Consul says otherwise
		return nil, errors.New("it has no ring")
	}
	var rings []Keyring
	for _, r := range raw {
		if len(r.Keys) > maxRingKeys {
			return nil, fmt.Errorf("a ring has more than %d keys", maxRingKeys)
		}
		if r.NumNodes < 0 {
			return nil, errSecretShape
		}
		ring := Keyring{Datacenter: r.Datacenter, WAN: r.WAN, Nodes: r.NumNodes, Problem: problemOf(r.Error, r.Messages)}
		for _, key := range slices.Sorted(maps.Keys(r.Keys)) { // in an order that stays, whatever hashes there are
			g := GossipKey{Hash: HashSecret(key), Nodes: r.Keys[key], Primary: -1}
			if r.PrimaryKeys != nil {
				g.Primary = r.PrimaryKeys[key]
			}
			if decoded, err := base64.StdEncoding.DecodeString(key); err == nil {
				g.Bytes = len(decoded)
				clear(decoded)
			}
			ring.Keys = append(ring.Keys, g)
		}
		slices.SortStableFunc(ring.Keys, func(a, b GossipKey) int {
			return cmp.Or(cmp.Compare(b.Primary, a.Primary), cmp.Compare(b.Nodes, a.Nodes))
		})
		rings = append(rings, ring)
	}
	slices.SortStableFunc(rings, func(a, b Keyring) int {
		return cmp.Or(cmp.Compare(a.Datacenter, b.Datacenter), boolCompare(a.WAN, b.WAN))
	})
	return rings, nil
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// problemOf puts what a ring's nodes say into a line.
func problemOf(problem string, messages map[string]string) string {
	var all []string
	if problem != "" {
		all = append(all, problem)
	}
	for _, node := range slices.Sorted(maps.Keys(messages)) {
		all = append(all, node+": "+messages[node])
	}
	return truncateUTF8(concealKeys(strings.Join(all, "; ")), maxProblem)
}

// tellsNoEncryption tells whether a refusal says of every ring that all of its nodes have no key, and nothing else. One ring
// that failed otherwise may have keys.
func tellsNoEncryption(body []byte) bool {
	if len(body) == 0 || len(body) >= maxKeyringText {
		return false
	}
	heading := regexp.MustCompile(`^\d+ error(s|\(s\))? occurred:$`)
	all := regexp.MustCompile(`^.* error: (\d+)/(\d+) nodes reported failure$`)
	said := false
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "* "))
		counts := all.FindStringSubmatch(line)
		switch {
		case line == "", heading.MatchString(line):
		case counts != nil && counts[1] == counts[2]:
		case strings.HasSuffix(line, ": Keyring is empty (encryption not enabled)"):
			said = true
		default:
			return false
		}
	}
	return said
}

// concealKeys takes out of text what could be a gossip key: 16, 24 or 32 bytes have 22, 32 or 43 characters in base64, and a
// "=" or two behind them. Names of nodes rarely have as many without a dot or a dash.
func concealKeys(text string) string {
	return regexp.MustCompile(`[A-Za-z0-9+/]{20,}={0,2}`).ReplaceAllString(text, "(key)")
}
