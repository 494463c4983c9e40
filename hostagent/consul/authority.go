// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// maxIntermediates bounds the intermediate certificates of one root; one or two stand there, more after cross-signing.
const maxIntermediates = 50

// Authority is the certificate authority of the mesh.
type Authority struct {
	TrustDomain string
	Roots       []Root
}

// Root is one root certificate of the mesh.
type Root struct {
	ID     string
	Name   string // names the provider: "Consul CA Primary Cert", "Vault CA Primary Cert", …
	Active bool
	PEM    string
	// Intermediates are certificates between the root and the leaves of this datacenter, as PEM texts: none where the root
	// itself signs leaves, as that of the built-in provider does in the primary datacenter.
	Intermediates []string
}

// Authority asks for the certificate authority of the mesh. No right is needed; an agent whose datacenter does without the
// mesh says so with status 500, which is an error of KindMeshOff. The agent answers from its cache.
func (c *Client) Authority(ctx context.Context) (Authority, error) {
	got, err := c.get(ctx, "/v1/agent/connect/ca/roots", "")
	if err != nil {
		return Authority{}, err
	}
	authority, err := decodeAuthority(got.body)
	if err != nil {
		return Authority{}, c.malformed("certificate authority of the mesh", err)
	}
	return authority, nil
}

func decodeAuthority(body []byte) (Authority, error) {
	if _, err := decodeRoots(body); err != nil { // its bounds hold here too
		return Authority{}, err
	}
	var raw struct {
		TrustDomain string
		Roots       []struct {
			ID, Name, RootCert string
			Active             bool
			IntermediateCerts  []string
		}
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return Authority{}, err
	}
	authority := Authority{TrustDomain: raw.TrustDomain}
	active := 0
	for _, r := range raw.Roots {
		if len(r.IntermediateCerts) > maxIntermediates {
			return Authority{}, fmt.Errorf("a root has more than %d intermediate certificates", maxIntermediates)
		}
		for _, text := range r.IntermediateCerts {
			if len(text) > maxRootText {
				return Authority{}, fmt.Errorf("an intermediate certificate has more than %d bytes", maxRootText)
			}
		}
		if r.Active {
			active++
		}
		authority.Roots = append(authority.Roots, Root{
			ID: r.ID, Name: r.Name, Active: r.Active, PEM: r.RootCert, Intermediates: r.IntermediateCerts,
		})
	}
	if active != 1 {
		return Authority{}, errors.New("not one of its roots is the active one")
	}
	return authority, nil
}
