// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	lookEvery       = time.Second      // at the files of certificates, while requests are sent
	lookEveryFolder = 10 * time.Second // where one of them is a folder, perhaps of hundreds
	alertDelay      = 100 * time.Millisecond
)

// secured is the RoundTripper over TLS. Certificates are rotated by others (Vault, consul-template, an operator), so it
// reads the files of the configuration again while requests are sent. Where they have changed, and are whole and fit each
// other, a new Transport with nothing of the old one takes its place: no connection, session or pool of CAs outlives the
// files that it was made with, but for a request under way. Until then the last good ones stand.
type secured struct {
	config *Config
	base   *http.Transport // never sends: the others are copies of it
	dial   dialFunc        // TCP
	now    func() time.Time

	mu      sync.Mutex
	current *http.Transport
	used    [sha256.Size]byte // of the files behind current
	looked  time.Time
	broken  error // why the files as they are now are not used
	looks   int   // at broken files, in a row
	changes int
}

// secure puts TLS under base, for an agent that has it. It fails where a file of the configuration is not good, with TLS
// or without: whoever names one will want it.
func secure(cfg *Config, base *http.Transport) (transport, error) {
	s := &secured{config: cfg, base: base, dial: base.DialContext, now: time.Now}
	if s.look(); s.broken != nil {
		return nil, s.broken
	}
	if !strings.HasPrefix(cfg.Address, "https://") {
		base.DialContext = s.dial.asking()
		return base, nil
	}
	s.looked = s.now()
	return s, nil
}

func (s *secured) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.transport().RoundTrip(req)
	if _, ok := errors.AsType[*tlsError](err); ok {
		s.mu.Lock()
		s.looked = time.Time{} // a new file may be why
		s.mu.Unlock()
	}
	return resp, err
}

// CloseIdleConnections closes those of the certificates of now; others are closed already.
func (s *secured) CloseIdleConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.CloseIdleConnections()
}

// transport returns what sends requests now, after a look at the files where the last one was a while ago.
func (s *secured) transport() *http.Transport {
	s.mu.Lock()
	defer s.mu.Unlock()
	every := lookEvery
	if s.config.CAFile == "" && s.config.CAPath != "" {
		every = lookEveryFolder
	}
	if now := s.now(); now.Sub(s.looked) >= every {
		s.looked = now
		s.look()
	}
	return s.current
}

// look takes the files into use where they are others than before and good.
func (s *secured) look() {
	files, err := readTLSFiles(s.config)
	var made *certificates
	if err == nil && (s.current == nil || files.sum != s.used) {
		made, err = files.parse()
	}
	if s.broken = err; err != nil {
		s.looks++
		return
	}
	if s.looks = 0; made == nil {
		return
	}
	before := s.current
	s.current = s.base.Clone()
	s.current.DialTLSContext = dialFunc((&handshaker{config: s.config, certificates: made, dial: s.dial, now: s.now}).dialTLS).asking()
	s.used = files.sum
	if before != nil {
		s.changes++
		before.CloseIdleConnections() // and those in use as soon as they are idle
	}
}

// state tells how often new files were taken into use, and why those that are there now are not. A file that is broken for
// one look only was being written.
func (s *secured) state() (changes int, broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks > 1 {
		broken = s.broken
	}
	return s.changes, broken
}

// Certificates tells how often since New certificates or keys were replaced on disk and taken into use, and, where what is there
// now cannot be used, why: what was read before stands then. Without TLS there are none. It may be called from any goroutine.
func (c *Client) Certificates() (changes int, broken error) {
	if c.secured == nil {
		return 0, nil
	}
	if changes, broken = c.secured.state(); broken != nil {
		broken = &Error{Kind: KindTLS, Err: fmt.Errorf("%w; the certificates that were read before stay in use", broken)}
	}
	return changes, broken
}

// Warnings are what is wrong with the settings of the connection though it works, one sentence each.
func (c *Client) Warnings() []string { return slices.Clone(c.warnings) }

func warnings(cfg *Config) []string {
	all := tlsWarnings(cfg)
	if text := exposedTokenFile(cfg.TokenFile); text != "" {
		all = append(all, text)
	}
	return all
}

// handshaker makes TLS connections with one set of certificates.
type handshaker struct {
	config       *Config
	certificates *certificates
	dial         dialFunc
	now          func() time.Time
}

// attempt is one handshake.
type attempt struct {
	*handshaker
	address    string // host:port
	name       string // that the agent's certificate must have
	asked      bool   // the agent asked for a client certificate
	acceptable [][]byte
}

func (h *handshaker) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := h.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	a := &attempt{handshaker: h, address: address, name: h.serverName(address)}
	// Before the request's own deadline, which would not tell what was waited for.
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout*3/4)
	defer cancel()
	conn := tls.Client(raw, a.tlsConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, a.explain(err)
	}
	return &session{Conn: conn, attempt: a, ended: make(chan struct{})}, nil
}

// serverName is the name that the agent's certificate must have.
func (h *handshaker) serverName(address string) string {
	name := cmp.Or(h.config.ServerName, address)
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name, _, _ = strings.Cut(name, "%") // a certificate knows no zones
	return name
}

// tlsConfig is made for one connection and keeps no sessions: each is verified with the certificates of now.
func (a *attempt) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         a.name,
		RootCAs:            a.certificates.roots,
		InsecureSkipVerify: a.config.InsecureSkipVerify,
		Time:               a.now,
		// Ours is sent to an agent that says it would not accept it, too: its refusal tells more than that of an empty one.
		GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			a.asked, a.acceptable = true, request.AcceptableCAs
			return cmp.Or(a.certificates.client, &tls.Certificate{}), nil
		},
	}
}

// session is a connection after its handshake. With TLS 1.3 the agent looks at our certificate only now, and what it says of
// it may arrive when the connection is broken for writing already.
type session struct {
	*tls.Conn
	attempt *attempt

	once    sync.Once
	ended   chan struct{} // closed when the agent has refused us
	refused error
}

func (s *session) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if _, ok := alertOf(err); ok {
		err = s.attempt.explain(err)
		s.once.Do(func() {
			s.refused = err
			close(s.ended)
		})
	}
	return n, err
}

func (s *session) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	select { // the Transport reads all the time
	case <-s.ended:
		err = s.refused
	case <-time.After(alertDelay):
	}
	return n, err
}
