// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is what some requests of a route meet. It is used once.
type Fault struct {
	Kind  string
	Route Route
	Times int    // how many requests meet it
	Text  string // what a person would call it, with its parameters

	left   int
	done   chan struct{}
	answer func(*exchange)
}

// Done returns a channel that is closed when the last of the requests has met the fault.
func (f *Fault) Done() <-chan struct{} { return f.done }

// NewFault makes a fault of a kind, its parameters chosen by random.
func NewFault(random *rand.Rand, kind string, route Route, times int) (*Fault, error) {
	k, known := kinds()[kind]
	if !known || !k.happens(route) {
		return nil, fmt.Errorf("cannot let %s fail with %q: %w", route, kind, errNoFault)
	}
	text, answer := k.make(random)
	return &Fault{
		Kind: kind, Route: route, Times: times, Text: fmt.Sprintf("%d x %s: %s %s", times, route, kind, text),
		left: times, done: make(chan struct{}), answer: answer,
	}, nil
}

// FaultKinds are the kinds of fault that can happen to a route and can be told from a whole answer, sorted.
func FaultKinds(route Route) []string {
	all := kinds()
	maps.DeleteFunc(all, func(name string, k kind) bool { return name == Forgetful || !k.happens(route) })
	return slices.Sorted(maps.Keys(all))
}

// Forgetful is the fault that nobody can tell from a whole answer: services are missing without a mark.
const Forgetful = "forgetful"

// scope is where a kind of fault can happen.
type scope int

const (
	everywhere scope = iota
	reading
	registrations // of services only
)

type kind struct {
	scope scope
	make  func(random *rand.Rand) (text string, answer func(*exchange))
}

func (k kind) happens(route Route) bool {
	switch k.scope {
	case registrations:
		return route == RouteServices
	case reading:
		return route.path() != ""
	case everywhere:
	}
	return true
}

// slow is longer than the timeout of whoever is tested.
const slow = 2 * time.Second

const (
	policyHeader   = "X-Consul-Default-Acl-Policy"
	filteredHeader = "X-Consul-Results-Filtered-By-Acls"
)

// allowing are an agent's headers where everybody may read.
func allowing() http.Header {
	return http.Header{"Content-Type": {"application/json"}, policyHeader: {"allow"}}
}

// kinds are all faults, by name.
func kinds() map[string]kind {
	all := map[string]kind{}
	maps.Copy(all, connectionFaults())
	maps.Copy(all, statusFaults())
	maps.Copy(all, halfFaults())
	maps.Copy(all, bodyFaults())
	maps.Copy(all, registrationFaults())
	return all
}

// connectionFaults are those of somebody who does not speak HTTP, or does not speak.
func connectionFaults() map[string]kind {
	stall := func(before string) kind {
		return kind{everywhere, func(*rand.Rand) (string, func(*exchange)) {
			return "", func(x *exchange) {
				x.raw(func(conn *net.TCPConn) {
					_, _ = io.WriteString(conn, before)
					until(conn, slow)
				})
			}
		}}
	}
	return map[string]kind{
		"stall before headers": stall(""),
		"stall in headers":     stall("HTTP/1.1 200 OK\r\nContent-Ty"),
		"stall in body":        stall("HTTP/1.1 200 OK\r\n" + policyHeader + ": allow\r\nContent-Length: 900\r\n\r\n{\"web\":{"),
		"reset": {everywhere, func(*rand.Rand) (string, func(*exchange)) {
			return "", func(x *exchange) { x.raw(func(conn *net.TCPConn) { _ = conn.SetLinger(0) }) }
		}},
		"reset in body": {everywhere, func(*rand.Rand) (string, func(*exchange)) {
			return "", func(x *exchange) {
				x.raw(func(conn *net.TCPConn) {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+policyHeader+": allow\r\nContent-Length: 900\r\n\r\n{")
					until(conn, 20*time.Millisecond) // so that it arrives before the reset
					_ = conn.SetLinger(0)
				})
			}
		}},
		"refused": {everywhere, func(random *rand.Rand) (string, func(*exchange)) {
			d := time.Duration(50+random.IntN(500)) * time.Millisecond
			return d.String(), func(x *exchange) { x.faulty.refuse(d) }
		}},
		"no HTTP": {everywhere, func(random *rand.Rand) (string, func(*exchange)) {
			text := pick(random, "SSH-2.0-OpenSSH_9.2\r\n", "\x15\x03\x01\x00\x02\x02\x16", "HTTP/3 200 fine\r\n\r\n{}", "\x00\xff\x1b[2J\r\n")
			return strconv.Quote(text), func(x *exchange) {
				x.raw(func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
			}
		}},
		"huge header": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			size := 80_000 + random.IntN(400_000)
			return strconv.Itoa(size), func(x *exchange) {
				header, body := x.whole("")
				header.Set("X-Long", strings.Repeat("x", size))
				x.send(http.StatusOK, header, body)
			}
		}},
	}
}

// statusFaults say that they are none.
func statusFaults() map[string]kind {
	all := map[string]kind{
		"redirect": {everywhere, func(random *rand.Rand) (string, func(*exchange)) {
			status := pick(random, 301, 302, 303, 307, 308)
			to := pick(random, "http://127.0.0.1:1/elsewhere", "http://"+ConsulAddress+"/v1/agent/services", "/v1/agent/services", "")
			return fmt.Sprint(status, " ", to), func(x *exchange) { x.send(status, http.Header{"Location": {to}}, nil) }
		}},
	}
	for _, status := range []int{401, 403, 404, 429, 500, 502, 503, 504} {
		all["status "+strconv.Itoa(status)] = kind{everywhere, func(random *rand.Rand) (string, func(*exchange)) {
			header := allowing()
			if after := random.IntN(3); after > 0 {
				header.Set("Retry-After", pick(random, "1", "86400", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "later"))
			}
			body := pick(random, "", "{}", "Permission denied", "<html>\x1b[2J</html>", strings.Repeat("x", 100_000))
			return "", func(x *exchange) { x.send(status, header, []byte(body)) }
		}}
	}
	return all
}

// halfFaults begin as a whole answer does.
func halfFaults() map[string]kind {
	half := func(x *exchange, head func(length int) string, rest func(part []byte) []byte) {
		_, body := x.whole("")
		x.raw(func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+policyHeader+": allow\r\n"+head(len(body))+"\r\n\r\n")
			_, _ = conn.Write(rest(body))
		})
	}
	cut := func(random *rand.Rand) func([]byte) []byte {
		share := random.Float64()
		return func(body []byte) []byte { return body[:int(share*float64(max(len(body)-2, 0)))] } // never the last brace
	}
	return map[string]kind{
		"half": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			part := cut(random)
			return "", func(x *exchange) {
				header, body := x.whole("")
				x.send(http.StatusOK, header, part(body))
			}
		}},
		"half by length": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			part := cut(random)
			return "", func(x *exchange) { half(x, func(n int) string { return fmt.Sprint("Content-Length: ", n) }, part) }
		}},
		"half until close": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			part := cut(random)
			return "", func(x *exchange) { half(x, func(int) string { return "Connection: close" }, part) }
		}},
		"half by chunk": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			share := random.Float64()
			return "", func(x *exchange) {
				half(x, func(int) string { return "Transfer-Encoding: chunked" }, func(body []byte) []byte {
					return fmt.Appendf(nil, "%x\r\n%s", len(body), body[:int(share*float64(len(body)))])
				})
			}
		}},
		"chunks without an end": {reading, func(*rand.Rand) (string, func(*exchange)) {
			return "", func(x *exchange) { // all of the body, but for the word that it is all
				half(x, func(int) string { return "Transfer-Encoding: chunked" }, func(body []byte) []byte {
					return fmt.Appendf(nil, "%x\r\n%s\r\n", len(body), body)
				})
			}
		}},
		"endless": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			text := pick(random, " ", "{\"a\":", "\n\n", "x")
			return strconv.Quote(text), func(x *exchange) {
				x.raw(func(conn *net.TCPConn) {
					_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+policyHeader+": allow\r\n\r\n{")
					for end := time.Now().Add(slow); err == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
						_, err = io.WriteString(conn, strings.Repeat(text, 20_000/len(text)))
					}
				})
			}
		}},
	}
}

// bodyFaults come whole, but are none of an agent's.
func bodyFaults() map[string]kind {
	as := func(make func(random *rand.Rand) (header http.Header, body string)) kind {
		return kind{reading, func(random *rand.Rand) (string, func(*exchange)) {
			header, body := make(random)
			return fmt.Sprint(header, " ", strconv.Quote(body)), func(x *exchange) { x.send(http.StatusOK, header, []byte(body)) }
		}}
	}
	changed := func(change func(random *rand.Rand) func(header http.Header, body []byte) []byte) kind {
		return kind{reading, func(random *rand.Rand) (string, func(*exchange)) {
			make := change(random)
			return "", func(x *exchange) {
				header, body := x.whole("")
				body = make(header, body)
				x.send(http.StatusOK, header, body)
			}
		}}
	}
	page := as(func(random *rand.Rand) (http.Header, string) {
		header := allowing()
		header.Set("Content-Type", pick(random, "text/html", "application/json"))
		return header, "<!doctype html><title>503</title><h1>No server is available to handle this request.</h1>"
	})
	page.scope = everywhere
	return map[string]kind{
		"page": page,
		"nothing": as(func(random *rand.Rand) (http.Header, string) {
			return allowing(), pick(random, "", "null", "[]", " \n", "0", `""`, "true", "\ufeff{}")
		}),
		"trailing garbage": changed(func(random *rand.Rand) func(http.Header, []byte) []byte {
			garbage := pick(random, "{}", "null", "x", "\x00", "<html>")
			return func(_ http.Header, body []byte) []byte { return append(body, garbage...) }
		}),
		"no UTF-8": changed(func(*rand.Rand) func(http.Header, []byte) []byte {
			return func(_ http.Header, body []byte) []byte {
				return bytes.Replace(body, []byte(`":"`), []byte("\":\"\xff\xfe"), 1)
			}
		}),
		"gzip garbage": changed(func(*rand.Rand) func(http.Header, []byte) []byte {
			return func(header http.Header, body []byte) []byte {
				header.Set("Content-Encoding", "gzip")
				return append([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"), body...)
			}
		}),
		"another answer": {reading, func(random *rand.Rand) (string, func(*exchange)) {
			first := random.IntN(4)
			return "", func(x *exchange) {
				others := slices.DeleteFunc([]Route{RouteServices, RouteSelf, RouteChecks, RouteMembers, RouteRoots}, func(r Route) bool {
					return r.path() == x.r.URL.Path
				})
				header, body := x.whole(others[first].path())
				x.send(http.StatusOK, header, body)
			}
		}},
	}
}

// registrationFaults are services as no agent would tell them, or told to somebody who may not see them all.
func registrationFaults() map[string]kind {
	port := regexp.MustCompile(`"Port":[0-9]+`)
	changed := func(change func(random *rand.Rand) func(header http.Header, entries map[string]json.RawMessage) []byte) kind {
		return kind{registrations, func(random *rand.Rand) (string, func(*exchange)) {
			make := change(random)
			return "", func(x *exchange) {
				header, body := x.whole("")
				var entries map[string]json.RawMessage
				if json.Unmarshal(body, &entries) != nil || len(entries) == 0 {
					entries = map[string]json.RawMessage{"web": json.RawMessage(`{"ID":"web","Port":1}`)}
				}
				body = make(header, entries)
				x.send(http.StatusOK, header, body)
			}
		}}
	}
	asPort := func(texts ...string) kind {
		return changed(func(random *rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			text := pick(random, texts...)
			return func(_ http.Header, entries map[string]json.RawMessage) []byte {
				return port.ReplaceAll(encode(entries), []byte(`"Port":`+text))
			}
		})
	}
	return map[string]kind{
		"filtered": changed(func(random *rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			keep := random.IntN(2)
			return func(header http.Header, entries map[string]json.RawMessage) []byte {
				header.Set(filteredHeader, "true")
				return encode(part(entries, keep))
			}
		}),
		"default deny": changed(func(random *rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			policy := pick(random, "deny", "", "allow, deny")
			return func(header http.Header, _ map[string]json.RawMessage) []byte {
				header.Del(policyHeader)
				if policy != "" {
					header.Set(policyHeader, policy)
				}
				return []byte("{}")
			}
		}),
		Forgetful: changed(func(random *rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			keep := random.IntN(2)
			return func(_ http.Header, entries map[string]json.RawMessage) []byte { return encode(part(entries, keep)) }
		}),
		"another id": changed(func(*rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			return func(_ http.Header, entries map[string]json.RawMessage) []byte {
				first := slices.Min(slices.Collect(maps.Keys(entries)))
				entries["not-"+first] = entries[first]
				delete(entries, first)
				return encode(entries)
			}
		}),
		"one id twice": changed(func(*rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			return func(_ http.Header, entries map[string]json.RawMessage) []byte {
				first := slices.Min(slices.Collect(maps.Keys(entries)))
				again := port.ReplaceAll(entries[first], []byte(`"Port":21222`))
				return fmt.Appendf(bytes.TrimSuffix(encode(entries), []byte("}")), ",%q:%s}", first, again)
			}
		}),
		"port of another type": asPort(`"21000"`, "true", "{}", "[21000]", "21000.5"),
		"port beyond int":      asPort("18446744073709551637", "1e300", "-9223372036854775809"),
		"deep": changed(func(random *rand.Rand) func(http.Header, map[string]json.RawMessage) []byte {
			depth := 20_000 + random.IntN(100_000)
			return func(_ http.Header, entries map[string]json.RawMessage) []byte {
				deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
				entries["deep"] = json.RawMessage(`{"ID":"deep","Proxy":{"Config":{"a":` + deep + `}}}`)
				return raw(entries)
			}
		}),
	}
}

// encode writes entries as an agent does.
func encode(entries map[string]json.RawMessage) []byte {
	text, err := json.Marshal(entries)
	if err != nil {
		return raw(entries)
	}
	return text
}

// raw is encode for entries that are no JSON.
func raw(entries map[string]json.RawMessage) []byte {
	var b bytes.Buffer
	for _, id := range slices.SortedFunc(maps.Keys(entries), cmp.Compare[string]) {
		fmt.Fprintf(&b, ",%q:%s", id, entries[id])
	}
	return append(append([]byte("{"), bytes.TrimPrefix(b.Bytes(), []byte(","))...), '}')
}

// part keeps so many of every two entries.
func part(entries map[string]json.RawMessage, keep int) map[string]json.RawMessage {
	for i, id := range slices.Sorted(maps.Keys(entries)) {
		if i%2 >= keep {
			delete(entries, id)
		}
	}
	return entries
}

func pick[T any](random *rand.Rand, from ...T) T { return from[random.IntN(len(from))] }
