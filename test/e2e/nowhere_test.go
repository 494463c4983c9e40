// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// echo stands between hostagent and the agent: it passes requests on, or answers with what it was asked.
type echo struct {
	passOn http.Handler
	answer atomic.Pointer[http.HandlerFunc] // nil: passes on
}

const echoAddress = "127.0.0.1:8601"

// newEcho serves in the host, at echoAddress.
func newEcho(w *world) *echo {
	w.t.Helper()
	e := &echo{passOn: w.passOn(host.ConsulAddress)}
	w.serve(echoAddress, e)
	return e
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if answer := e.answer.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	e.passOn.ServeHTTP(w, r)
}

// answers are what an answer can look like that repeats the request.
func answers() map[string]http.HandlerFunc {
	token := func(r *http.Request) string { return r.Header.Get("X-Consul-Token") }
	page := func(status int, form func(string) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
			w.WriteHeader(status)
			fmt.Fprint(w, form(token(r)))
		}
	}
	as := func(format string) func(string) string {
		return func(token string) string { return fmt.Sprintf(format, token) }
	}
	return map[string]http.HandlerFunc{
		"403, headers":    func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403); _ = r.Write(w) },
		"401, base64":     page(401, func(token string) string { return base64.StdEncoding.EncodeToString([]byte("user:" + token)) }),
		"403, hex":        page(403, func(token string) string { return hex.EncodeToString([]byte(token)) }),
		"403, half of it": page(403, func(token string) string { return "your token begins " + token[:14] }),
		"500, page":       page(500, as("<html><pre>X-Consul-Token: %s</pre></html>")),
		"200, alone":      page(200, as("%s")),
		"200, page":       page(200, as("<p>%s</p>")),
		"200, key":        page(200, as(`{"%s": {}}`)),
		"200, service":    page(200, as(`{"%[1]s": {"ID": "%[1]s", "Service": "%[1]s", "Port": 8080, "Connect": {"Native": true}}}`)),
		"no HTTP": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				fmt.Fprintf(conn, "%s\r\n\r\n", token(r))
				conn.Close()
			}
		},
	}
}

// TestTokenIsNowhere: whatever goes wrong, nothing that hostagent writes tells its token.
func TestTokenIsNowhere(t *testing.T) {
	netns.Once(t)
	w := newWorld(t, defaultDeny())
	w.service("web", 8080, "127.0.0.1:8080")
	e := newEcho(w)
	dir, err := w.Configure(quick)
	w.must(err)
	policy := w.policyOf(dir)
	for i, kind := range []string{"file", "env", "configuration"} {
		given := w.grant("hostagent-"+kind, policy)
		secret := given.token.SecretID
		const metrics = "127.0.0.1:9521"
		config := quick + fmt.Sprintf("log_level = \"debug\"\nlog_format = %q\nmetrics { address = %q }\n", []string{"text", "json"}[i%2], metrics)
		var env []string
		switch kind {
		case "file":
			file := filepath.Join(t.TempDir(), "token")
			w.must(os.WriteFile(file, []byte(secret), 0o644))
			config += fmt.Sprintf("consul {\n  address = %q\n  token_file = %q\n}\n", echoAddress, file)
		case "env":
			env = []string{"CONSUL_HTTP_TOKEN=" + secret}
			config += fmt.Sprintf("consul { address = %q }\n", echoAddress)
		default:
			config += fmt.Sprintf("consul {\n  address = %q\n  token = %q\n}\n", echoAddress, secret)
		}
		agent := w.startPrivately(config, env...)
		w.guarded()
		agent.statusTurns(0, "")
		seen := &strings.Builder{} // everything that was written
		gather := func() {
			t.Helper()
			for _, args := range [][]string{{"status"}, {"status", "--format", "json"}} {
				out, _ := w.says(append(args, "--socket", agent.socket())...)
				seen.WriteString(out)
			}
			w.must(agent.scrape(metrics, seen))
			checks, err := w.consul.API().Agent().Checks()
			w.must(err)
			services, err := w.consul.API().Agent().Services()
			w.must(errors.Join(err, json.NewEncoder(seen).Encode([]any{checks, services})))
		}
		gather()
		for name, answer := range answers() {
			e.answer.Store(&answer)
			if name != "200, service" {
				agent.statusTurns(1, "")
			} else { // that one is believed
				w.until("the service is told of without the token", func() error {
					if said, _ := agent.status(); !strings.Contains(said, "(token)") {
						return errors.New(said)
					}
					return nil
				})
			}
			gather()
			out, _ := w.scan(env, agent.config)
			seen.WriteString(out)
			e.answer.Store(nil)
			agent.statusTurns(0, "")
		}
		given.change(`key "none" { policy = "read" }`)
		agent.statusTurns(1, "")
		gather()
		given.deleteToken()
		agent.statusTurns(1, "or has expired")
		gather()
		w.must(agent.Stop())
		seen.WriteString(agent.Log())
		readAll(t, seen, agent.run, w.StateDir())
		for _, part := range parts(secret) {
			if at := strings.Index(strings.ToLower(seen.String()), part); at >= 0 {
				text := seen.String()
				t.Errorf("token by %s: %q is told: …%s…", kind, part, text[max(0, at-200):min(len(text), at+100)])
			}
		}
		if seen.Len() < 10_000 {
			t.Errorf("only %d bytes were looked at", seen.Len())
		}
	}
}

// scan runs a scan with further variables and returns all that it writes.
func (w *world) scan(env []string, config string) (string, error) {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	cmd := w.Command(w.ctx, binary, "scan", "--format", "json", "--config", config)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// scrape writes the metrics to out.
func (p *private) scrape(at string, out io.Writer) error {
	response, err := p.w.HTTPClient().Get("http://" + at + "/metrics")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(out, response.Body)
	return err
}

// readAll writes every file below the folders to out.
func readAll(t *testing.T, out io.Writer, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(out, "%s\n%s\n", path, text)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// parts are the beginnings of a token, in lower case, as it may be written.
func parts(token string) []string {
	forms := []string{token[:8], token[9:17], token[len(token)-8:], hex.EncodeToString([]byte(token))[:16]}
	for _, before := range []string{"", "x", "xx"} { // the first bytes of base64 depend on what stands before
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(before + token))[4:16])
	}
	for i := range forms {
		forms[i] = strings.ToLower(forms[i])
	}
	return forms
}
