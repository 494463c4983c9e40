// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
)

// asking is a connection on which nothing may come before the first request: only another protocol, such as HTTP/2 of gRPC,
// begins that way, and net/http would write it to the program's standard log each time.
type asking struct {
	net.Conn
	asked atomic.Bool
}

func (a *asking) Write(p []byte) (int, error) {
	a.asked.Store(true)
	return a.Conn.Write(p)
}

func (a *asking) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if n > 0 && !a.asked.Load() {
		return 0, &unaskedError{string(p[:min(n, 20)])}
	}
	return n, err
}

func (dial dialFunc) asking() dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &asking{Conn: conn}, nil
	}
}

// unaskedError is whatever speaks before it is asked.
type unaskedError struct{ head string }

func (e *unaskedError) Error() string {
	return fmt.Sprintf("malformed HTTP response %q before anything was asked", e.head)
}

// isHTTP2 tells whether an answer to HTTP/1 begins with the settings frame of HTTP/2.
func isHTTP2(err error) bool {
	return strings.Contains(err.Error(), `malformed HTTP response "\x00\x00`)
}
