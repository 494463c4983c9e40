// SPDX-License-Identifier: MPL-2.0

package probe

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"
)

const serverTimeout = 3 * time.Second

// beginTLS is the first byte of a connection to a server's RPC port that goes on in TLS: RPCTLS in Consul's agent/pool, the
// same in all its versions.
const beginTLS = 3

// AskServer asks what listens on the RPC port of one of Consul's servers for its certificate, and tells it as that proved to
// be the other side's own; nothing else of it is verified. Where there is none, the Result has an Outcome and a Detail as from
// Ask, but never Named, Unnamed or Expired. Address may be one of another host.
//
// It takes at most 3 s, sends the byte that begins TLS and a TLS hello but neither a certificate nor a request, and closes the
// connection: a server that verifies its callers shows its certificate before it asks for theirs. It may be called by several
// goroutines.
func AskServer(ctx context.Context, address netip.AddrPort) (*x509.Certificate, Result) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", address.String())
	if err != nil {
		if isTimeout(err) {
			err = errNoConnection
		}
		return nil, unknown(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{beginTLS}); err != nil {
		return nil, failure(&listening{}, err)
	}
	heard := &listening{Conn: conn}
	chain, err := handshake(ctx, heard)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, unknown(ctx.Err())
	case err != nil:
		return nil, failure(heard, err)
	case len(chain) == 0 || len(chain) > maxChain:
		return nil, Result{Outcome: Foreign, Detail: "it shows no chain of certificates that can be looked at"}
	}
	return chain[0], Result{}
}

var errNoConnection = errors.New("no answer within 3 s")
