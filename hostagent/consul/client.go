// SPDX-License-Identifier: MPL-2.0

// Package consul talks to the local Consul agent: registrations in, health checks out, and the facts of the agent that
// the rest of hostagent needs. It decides nothing: what a registration means is Evaluate's business.
//
// Every answer is whole or it is an error (see Client.Services). What comes back is untrusted text and untrusted
// numbers; the package bounds its size and its shape and leaves its meaning to others.
package consul

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"
)

const (
	defaultMaxBody = 64 << 20 // of one answer: 4,000 services are about 1.2 MB
	maxHeader      = 64 << 10
	maxTokenFile   = 4096 // a token is a UUID
	maxSocketPath  = 107  // of sockaddr_un, whose last byte is 0
)

// Config says how to reach the local agent. Empty fields take Consul's own defaults, never the environment: whoever
// fills a Config has looked at CONSUL_HTTP_ADDR and its like already.
type Config struct {
	Address            string // host:port, http://, https:// or unix:// as CONSUL_HTTP_ADDR
	Token              string
	TokenFile          string // stands over Token; read anew for every request, so a rotated token counts at once
	CAFile             string
	CAPath             string
	CertFile           string
	KeyFile            string
	ServerName         string
	InsecureSkipVerify bool
	Namespace          string // sent only when set: Community Edition refuses it
	Partition          string
	Timeout            time.Duration // of one request, and of one whole Report; 0 means 5 s
	UserAgent          string
	Trust              *Trust // nil: whoever answers at the address is sent everything

	maxBody int64 // bytes of one answer; 0 means 64 MiB
}

// Client is one local Consul agent. Its methods may be called by one goroutine at a time.
type Client struct {
	api     *api.Client
	http    *http.Client // under api, for what it cannot ask
	base    string       // scheme and host for http
	next    transport
	timeout time.Duration
	address string
	now     func() time.Time

	secured  *secured // nil without TLS
	warnings []string

	services cache[[]Registration]
	members  cache[Members]
	roots    cache[Roots]
	checks   cache[map[string]*api.AgentCheck]

	own           ownMeta                // of hostagent's own service
	lengths       map[string]int         // of the last answers, by path
	lifeRefreshed time.Time              // when this client last refreshed the TTL of the life check
	sent          map[string]*sentOutput // by check id: outputs that the agent has not been seen to store as they are
	refused       map[string]refusal     // by id: services that take no checks of ours
}

// New prepares a client; it sends nothing. Errors are unreadable certificates or token files and malformed addresses.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.maxBody == 0 {
		cfg.maxBody = defaultMaxBody
	}
	if cfg.Address == "" {
		cfg.Address = "http://127.0.0.1:8500"
	}
	address, dial, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.Trust != nil {
		proven := strings.HasPrefix(address, "https://") && !cfg.InsecureSkipVerify
		dial = cfg.Trust.guard(dial, cfg.Address, proven, cfg.Timeout)
	}
	base := &http.Transport{ // without Proxy: the agent is on this host, whatever HTTP_PROXY says
		DialContext:            dial,
		DisableCompression:     true, // on one host gzip would cost both sides more than it saves
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        15 * time.Second, // longer than between two polls
		MaxResponseHeaderBytes: maxHeader,
	}
	next, err := secure(&cfg, base)
	if err != nil {
		return nil, err
	}
	t := &tap{next: next, config: cfg}
	if _, err := t.token(); err != nil {
		return nil, err
	}
	hc := &http.Client{Transport: t}
	// An agent that redirects is no agent; following could carry the token elsewhere.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	// api.NewClient fills empty fields from the environment, and may fail over a file that is named there. So all that
	// it would fill is set here, or in tap for every request. The token is a placeholder that tap replaces.
	client, err := api.NewClient(&api.Config{Address: address, Scheme: "http", HttpClient: hc, Token: "-"})
	if err != nil {
		return nil, fmt.Errorf("cannot use Consul address %q: %w", cfg.Address, err)
	}
	secured, _ := next.(*secured) // nil without TLS
	return &Client{
		secured: secured, warnings: warnings(&cfg), next: next, http: hc, base: address,
		api: client, timeout: cfg.Timeout, address: cfg.Address, now: time.Now, sent: map[string]*sentOutput{}, lengths: map[string]int{},
		refused: map[string]refusal{},
	}, nil
}

// Close closes the connections that are not in use, and those that are as soon as they are not. A client that is used once
// more makes new ones.
func (c *Client) Close() { c.next.CloseIdleConnections() }

// Address returns the agent's address as an operator would write it, for messages.
func (c *Client) Address() string { return c.address }

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// parseAddress turns CONSUL_HTTP_ADDR into what api.Config wants. A unix address is dialled by us, because
// api.NewClient would replace our transport, and with it the headers that the whole-answer rule reads.
func parseAddress(configured string) (address string, dial dialFunc, err error) {
	d := &net.Dialer{KeepAlive: 30 * time.Second} // every request has a deadline
	d.SetMultipathTCP(false)                      // whatever GODEBUG says: Trust looks at both ends as TCP
	scheme, rest, found := strings.Cut(configured, "://")
	if !found {
		scheme, rest = "http", configured
	}
	switch scheme {
	case "http", "https":
		u, err := url.Parse(scheme + "://" + rest)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" { // not shown: it could hold a password
			return "", nil, errors.New("cannot use the Consul address: write it as in http://127.0.0.1:8500")
		}
		if u.Hostname() == "" {
			return "", nil, fmt.Errorf("cannot use Consul address %q: it names no host", configured)
		}
		return scheme + "://" + strings.TrimRight(rest, "/"), func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.DialContext(ctx, network, strings.Replace(address, "%25", "%", 1)) // api.Client leaves a zone escaped
		}, nil
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return "", nil, fmt.Errorf("cannot use Consul address %q: write an absolute path, as in unix:///run/consul/http.sock", configured)
		}
		if len(rest) > maxSocketPath {
			return "", nil, fmt.Errorf("cannot use Consul address %q: the path of a unix socket has at most %d bytes", configured, maxSocketPath)
		}
		return "http://localhost", func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", rest)
		}, nil
	default:
		return "", nil, fmt.Errorf("cannot use Consul address %q: the scheme must be http, https or unix", configured)
	}
}

// answer is one whole response: the headers that api.Client hides, and the body before anybody decodes it.
type answer struct {
	header http.Header
	body   []byte
	status int       // of HTTP, 0 before there is an answer
	token  bool      // a token was sent
	own    TokenHash // of the token that was sent: in the body it is concealed
	most   int64     // set by who asks: bytes of the body, 0 for Config's bound
	expect int       // set by who asks: about how many bytes the body will have
	shown  int       // set by who asks: bytes that are looked at where the status is not 200, 0 for maxShown
	nobody bool      // set by who asks: the client's token is not sent
	as     string    // set by who asks with nobody: what everybody knows and is sent as the token, "" for none
}

type answerKey struct{}

// tap is the RoundTripper under api.Client. It sends the token, namespace and partition of config and of nobody else,
// takes in every response whole and bounded, and keeps it for callers that ask for it through the context.
type tap struct {
	next   transport
	config Config
}

// transport is a http.Transport, or one over TLS.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

func (t *tap) RoundTrip(req *http.Request) (*http.Response, error) {
	want, wanted := req.Context().Value(answerKey{}).(*answer)
	token := ""
	if !wanted || !want.nobody {
		var err error
		if token, err = t.token(); err != nil {
			return nil, err
		}
	}
	req = req.Clone(req.Context())
	if wanted && want.nobody {
		put(req.Header, "X-Consul-Token", want.as)
	} else {
		put(req.Header, "X-Consul-Token", token)
	}
	put(req.Header, "User-Agent", t.config.UserAgent)
	query := req.URL.Query()
	put(query, "ns", t.config.Namespace)
	put(query, "partition", t.config.Partition)
	req.URL.RawQuery = query.Encode()

	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, concealError(err, token)
	}
	defer resp.Body.Close()
	most := t.config.maxBody
	if wanted && want.most > 0 {
		most = want.most
	}
	var read bytes.Buffer
	if wanted {
		read.Grow(want.expect + 2*bytes.MinRead) // so that it need not grow at the end either
	}
	if _, err := read.ReadFrom(io.LimitReader(resp.Body, most+1)); err != nil {
		return nil, fmt.Errorf("cannot read the whole answer: %w", err)
	}
	body := read.Bytes()
	if int64(len(body)) > most {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errTooLong, most)
	}
	if resp.StatusCode == http.StatusOK && isJSON(body) {
		body = concealWhole(body, token)
	} else { // it is shown, or its beginning
		shown := maxShown
		if wanted && want.shown > 0 {
			shown = want.shown
		}
		body = []byte(conceal(string(body[:min(len(body), shown)]), token))
	}
	if wanted {
		*want = answer{header: resp.Header, body: body, status: resp.StatusCode, token: token != "", own: HashSecret(token)}
	}
	// api.Client decodes into something that nobody reads; the caller decodes the answer's body, once.
	left := []byte("null")
	if resp.StatusCode != http.StatusOK {
		left = body[:min(len(body), maxErrorBody)]
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(left)), int64(len(left))
	return resp, nil
}

// isJSON tells whether body begins as every answer of an agent does that is decoded here.
func isJSON(body []byte) bool {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	return len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
}

// put sets a header or query parameter, or takes away what stands there.
func put(in interface {
	Set(key, value string)
	Del(key string)
}, key, value string) {
	if value == "" {
		in.Del(key)
		return
	}
	in.Set(key, value)
}

// get fetches path, with the response kept whole. A status other than 200 is an error of the matching kind.
func (c *Client) get(ctx context.Context, path, filter string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	got := answer{expect: c.lengths[path]}
	if err := c.query(ctx, path, filter, &got); err != nil {
		return answer{}, err
	}
	c.lengths[path] = len(got.body)
	return got, nil
}

// query is get for who sets got and bounds the time himself. Beside an error got holds what was answered, if anything was.
func (c *Client) query(ctx context.Context, path, filter string, got *answer) error {
	ctx = context.WithValue(ctx, answerKey{}, got)
	if _, err := c.api.Raw().Query(path, new(any), (&api.QueryOptions{Filter: filter}).WithContext(ctx)); err != nil {
		return c.failure("ask for "+path, err)
	}
	return nil
}

// cache keeps what the last good body was decoded to, so that an unchanged one is not decoded again.
type cache[T any] struct {
	sum   [sha256.Size]byte // zero, which is no body's, before the first
	value T
}

func (m *cache[T]) decode(body []byte, decode func([]byte) (T, error)) (value T, unchanged bool, err error) {
	sum := sha256.Sum256(body)
	if m.sum == sum {
		return m.value, true, nil
	}
	if value, err = decode(body); err != nil {
		return value, false, err // and the last good one stays
	}
	*m = cache[T]{sum: sum, value: value}
	return value, false, nil
}

// object refuses a body that is no JSON object: null and [] decode into an empty map without an error, and would read
// as "no services".
func object(body []byte) error {
	if !utf8.Valid(body) {
		return errNoUTF8
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return fmt.Errorf("the answer is no JSON object but begins %s; is that the address of a Consul agent?",
			strconv.QuoteToASCII(truncate(string(body), 40)))
	}
	return nil
}

// token returns the ACL token to send now, "" for none.
func (t *tap) token() (string, error) {
	if t.config.TokenFile == "" {
		if !isToken(t.config.Token) && t.config.Token != "" {
			return "", &Error{Kind: KindToken, Err: errors.New("cannot use the Consul token: it holds blanks or control characters (not shown)")}
		}
		return t.config.Token, nil
	}
	if isTokenShaped(t.config.TokenFile) {
		return "", &Error{Kind: KindToken, Err: errors.New(
			"cannot use the Consul token file: what is given looks like a token and not like the path of a file (not shown)")}
	}
	// Never an older token where the file cannot be used: taking it away is how an operator takes hostagent's rights away.
	// A writer that is caught half-way costs one try.
	raw, err := readRegular(t.config.TokenFile, maxTokenFile)
	if err != nil {
		return "", &Error{Kind: KindToken, Err: fmt.Errorf("cannot read the Consul token: %w; hostagent must be able to read token_file", err)}
	}
	token := strings.TrimSpace(string(raw))
	if !isToken(token) {
		return "", &Error{Kind: KindToken, Err: fmt.Errorf("cannot use Consul token file %q: it must hold one token and nothing else", t.config.TokenFile)}
	}
	return token, nil
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' })
}

func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%q is no regular file of at most %d bytes", path, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
