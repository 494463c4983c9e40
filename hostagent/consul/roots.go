// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	maxRoots    = 100      // certificates; two or three stand there during a rotation
	maxRootText = 64 << 10 // bytes of each
)

// Roots are the certificate authority of the mesh, as the local agent knows it. The value is shared between answers: read
// only.
type Roots struct {
	// TrustDomain is the first part of every service's SPIFFE id.
	TrustDomain string
	// PEM are the root certificates, each as PEM text: the active one, and during a rotation earlier ones, which count too.
	PEM []string
}

// Roots asks for the certificate authority of the mesh, or returns an *Error. No right is needed, with ACLs neither: ACLs
// take nothing out of this answer. The agent answers from its cache; one that has never reached a server, or whose
// datacenter does without the mesh, says so with status 500.
func (c *Client) Roots(ctx context.Context) (Roots, error) {
	got, err := c.get(ctx, "/v1/agent/connect/ca/roots", "")
	if err != nil {
		return Roots{}, err
	}
	roots, _, err := c.roots.decode(got.body, decodeRoots)
	if err != nil {
		return Roots{}, c.malformed("certificate authority of the mesh", err)
	}
	return roots, nil
}

func decodeRoots(body []byte) (Roots, error) {
	var raw struct {
		TrustDomain string
		Roots       []struct{ RootCert string }
	}
	if err := object(body); err != nil {
		return Roots{}, err
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return Roots{}, err
	}
	switch {
	case raw.TrustDomain == "":
		return Roots{}, errors.New("it names no trust domain")
	case len(raw.Roots) == 0:
		return Roots{}, errors.New("it has no root certificate")
	case len(raw.Roots) > maxRoots:
		return Roots{}, fmt.Errorf("it has more than %d root certificates", maxRoots)
	}
	roots := Roots{TrustDomain: raw.TrustDomain}
	for _, root := range raw.Roots {
		if len(root.RootCert) > maxRootText {
			return Roots{}, fmt.Errorf("a root certificate has more than %d bytes", maxRootText)
		}
		roots.PEM = append(roots.PEM, root.RootCert)
	}
	return roots, nil
}
