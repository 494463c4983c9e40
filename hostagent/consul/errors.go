// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"
)

// Kind sorts the ways in which the agent can fail to answer.
type Kind string

// The kinds of Error.
const (
	KindUnreachable Kind = "unreachable" // nothing answers at the address
	KindTimeout     Kind = "timeout"     // no whole answer in time
	KindTLS         Kind = "tls"         // the TLS handshake failed
	KindToken       Kind = "token"       // the token file cannot be read
	KindDenied      Kind = "denied"      // 401 or 403: the token lacks a right
	KindThrottled   Kind = "throttled"   // 429: later, never empty
	KindStatus      Kind = "status"      // any other status than 200
	KindFiltered    Kind = "filtered"    // 200, but ACLs may have taken services out of the answer
	KindMalformed   Kind = "malformed"   // not what an agent answers: half, too long, no JSON
	KindTooOld      Kind = "too-old"     // the agent is older than MinVersion: it does not say what it leaves out
	KindImpostor    Kind = "impostor"    // what listens at the agent's address is another user's
	KindNotLocal    Kind = "not-local"   // the agent is another host's
	KindACLsOff     Kind = "acls-off"    // what was asked for is there with ACLs only, and they are disabled
	KindMeshOff     Kind = "mesh-off"    // what was asked for is there with the service mesh only, and the datacenter does without
)

// Error is a request that brought no whole answer. Its text names the remedy where there is one and never a token, and
// shows control characters of whoever answered as escapes.
type Error struct {
	Kind Kind
	Err  error
	Fix  string // what mends it, where Err is the bare reason: of KindFiltered, KindImpostor and KindNotLocal
}

func (e *Error) Error() string {
	text := e.Err.Error()
	if e.Fix != "" {
		cannot := "cannot trust the Consul agent: "
		if e.Kind == KindFiltered {
			cannot = "cannot use the Consul agent's answer: "
		}
		text = cannot + text + "; " + e.Fix
	}
	quoted := strconv.Quote(text)
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(quoted[1 : len(quoted)-1])
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of a failure of this package, "" for any other error.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return ""
}

// What Consul says, from 1.8 to 1.21, where ACLs are disabled (status 401), and where the mesh is (status 500).
const (
	aclsOff = "ACL support disabled"
	meshOff = "Connect must be enabled in order to use this endpoint"
)

const maxErrorBody = 300 // bytes that are shown of an answer other than 200

var errTooLong = errors.New("cannot take in the answer")

// failure turns what api.Client returns into an Error, here and nowhere else.
func (c *Client) failure(verb string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	kind, remedy, reason := c.diagnose(err)
	return &Error{Kind: kind, Err: fmt.Errorf("cannot %s at the Consul agent %s: %w%s", verb, c.address, reason, remedy)}
}

// diagnose tells why a request brought no whole answer, and what mends it: a clause that follows the reason, or nothing. An
// answer comes first: what is written in one is no sign of how the connection went.
func (c *Client) diagnose(err error) (kind Kind, remedy string, reason error) {
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err // it would repeat the address
	}
	status, answered := errors.AsType[api.StatusError](err)
	failed, handshake := errors.AsType[*tlsError](err)
	switch {
	case wantsTLS(err):
		return KindTLS, "", &tlsError{"it answers in TLS only; write https:// in address (CONSUL_HTTP_ADDR)", err}
	case answered:
		kind, remedy = statusKind(status.Code, status.Body)
		return kind, remedy, fmt.Errorf("status %d: %s", status.Code, strings.TrimRight(status.Body, ".\r\n "))
	case handshake:
		return KindTLS, "", failed
	case errors.Is(err, context.Canceled), isTimeout(err):
		return KindTimeout, "", late(err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errTooLong):
		return KindMalformed, "; is that the address of a Consul agent?", sourceless(err)
	}
	remedy, reason = c.unreachable(err)
	return KindUnreachable, remedy, sourceless(reason)
}

// unreachable is diagnose for an address at which nothing answers as an agent does.
func (c *Client) unreachable(err error) (remedy string, reason error) {
	const running = "; is the agent running, and is its address in CONSUL_HTTP_ADDR or consul { address }?"
	if unasked, ok := errors.AsType[*unaskedError](err); ok {
		err = unasked
	}
	hint := portHint(c.address)
	switch {
	case strings.HasPrefix(c.address, "unix://"):
		return cmp.Or(socketRemedy(err), running), err
	case isHTTP2(err):
		return "; " + apiPort, errors.New("it answers in HTTP/2, as Consul's gRPC ports do")
	case hint != "" && !errors.Is(err, syscall.ECONNREFUSED):
		return hint + "; " + apiPort, err
	}
	return running, err
}

// lateError is a deadline that has passed, in words of people.
type lateError struct {
	text string
	err  error
}

func (e *lateError) Error() string { return e.text }

func (e *lateError) Unwrap() error { return e.err }

// late explains a deadline that has passed, where nobody has. A request that was given up is none.
func late(err error) error {
	if _, explained := errors.AsType[*lateError](err); explained || errors.Is(err, context.Canceled) {
		return err
	}
	return &lateError{"it did not answer in time; its log may tell why it hangs; consul { timeout } lets it take longer", err}
}

// sourceless leaves out the port that a connection had here, another one each time: the same failure must read the same, for
// it stands in the life check, and each change of that is a write to the servers.
func sourceless(err error) error {
	if broken, ok := errors.AsType[*net.OpError](err); ok && broken.Source != nil {
		without := *broken
		without.Source = nil
		return &without
	}
	return err
}

// malformed is a 200 that could not be decoded.
func (c *Client) malformed(what string, err error) error {
	return &Error{Kind: KindMalformed, Err: fmt.Errorf("cannot read the %s of the Consul agent %s: %w", what, c.address, err)}
}

func statusKind(code int, body string) (kind Kind, remedy string) {
	switch {
	case code == http.StatusUnauthorized && strings.Contains(body, aclsOff):
		return KindACLsOff, ""
	case code == http.StatusInternalServerError && strings.Contains(body, meshOff):
		return KindMeshOff, ""
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return KindDenied, deniedRemedy(body)
	case code == http.StatusTooManyRequests:
		return KindThrottled, "; hostagent tries again"
	case code >= 300 && code < 400:
		return KindStatus, "; an agent does not redirect: is that its address?"
	}
	return KindStatus, ""
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
