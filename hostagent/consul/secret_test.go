// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHashSecret(t *testing.T) {
	if HashSecret("") != (TokenHash{}) {
		t.Error("no secret has a hash")
	}
	if a, again := HashSecret("a"), HashSecret("a"); a != again || a == HashSecret("b") {
		t.Error("hashes do not tell secrets apart")
	}
	if got := fmt.Sprintf("%v %+v %#v %s", HashSecret("a"), HashSecret("a"), HashSecret("a"), TokenHash{}); got != "(hash) (hash) (hash) (none)" {
		t.Errorf("shown as %s", got)
	}
}

func TestSecretText(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want TokenHash
	}{
		{`"x"`, HashSecret("x")},
		{`"a\u0062"`, HashSecret("ab")},
		{`""`, TokenHash{}},
		{`"<hidden>"`, TokenHash{}},
		{`"\u003chidden\u003e"`, TokenHash{}},
		{`null`, TokenHash{}},
		{`7`, TokenHash{}},
		{`{"a":"x"}`, TokenHash{}},
	} {
		var got struct{ SecretID secretText }
		if err := json.Unmarshal([]byte(`{"SecretID":`+tt.raw+`}`), &got); err != nil || TokenHash(got.SecretID) != tt.want {
			t.Errorf("%s: another hash, or %v", tt.raw, err)
		}
	}
}

// secretsIn returns what must not be seen again of the recorded answers.
func secretsIn(t *testing.T) []string {
	t.Helper()
	var secrets []string
	var tokens []struct{ SecretID string }
	if err := json.Unmarshal(recorded(t, "acl-tokens-write.json"), &tokens); err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if token.SecretID != "anonymous" { // everybody's
			secrets = append(secrets, token.SecretID)
		}
	}
	var rings []struct{ Keys map[string]int }
	if err := json.Unmarshal(recorded(t, "keyring.json"), &rings); err != nil {
		t.Fatal(err)
	}
	for key := range rings[0].Keys {
		secrets = append(secrets, key)
	}
	if len(secrets) != 8 {
		t.Fatalf("%d secrets", len(secrets))
	}
	return append(secrets, "KEYTEXTINPLACEOFTHERECORDEDONE", "PRIVATE KEY")
}

// TestNoSecretSurvives reads answers that hold every kind of secret, whole and cut anywhere, and looks for them in all that
// comes back.
func TestNoSecretSurvives(t *testing.T) {
	acls := recordedACLs(t, "acl-tokens-write.json")
	secrets := secretsIn(t)
	for _, tt := range []struct {
		path, body string
		ask        func(*Client) (any, error)
	}{
		{"/v1/acl/tokens", acls.tokens, func(c *Client) (any, error) { return c.Tokens(t.Context()) }},
		{"/v1/operator/keyring", string(recorded(t, "keyring.json")), func(c *Client) (any, error) { return c.Keyrings(t.Context()) }},
		{"/v1/connect/ca/configuration", string(recorded(t, "ca-configuration-own.json")), func(c *Client) (any, error) { return c.CAConfig(t.Context()) }},
	} {
		t.Run(tt.path, func(t *testing.T) {
			body := tt.body
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == tt.path {
					fmt.Fprint(w, body)
					return
				}
				acls.ServeHTTP(w, r)
			}))
			defer srv.Close()
			c := newClient(t, Config{Address: srv.URL})
			look := func(how string) (failed bool) {
				value, err := tt.ask(c)
				encoded, failure := json.Marshal(value)
				if failure != nil {
					t.Fatal(failure)
				}
				shown := fmt.Sprintf("%+v %#v %s %+v %#v", value, value, encoded, err, err)
				for _, s := range secrets {
					if strings.Contains(shown, s[:8]) {
						t.Errorf("%s: %s survives in %s", how, s, shown)
					}
				}
				return err != nil
			}
			if look("whole") {
				t.Error("the whole answer is an error")
			}
			for cut := 1; cut < len(tt.body)-1; cut += 7 {
				if body = tt.body[:cut]; !look(fmt.Sprintf("cut at %d", cut)) {
					t.Errorf("cut at %d, and no error", cut)
				}
			}
			for _, wrapped := range []string{`{"a":` + tt.body + `}`, `[[` + tt.body + `]]`, `["` + secrets[0] + `"]`, `"` + secrets[7] + `"`, secrets[7], tt.body + secrets[7]} {
				body = wrapped
				look("wrapped")
			}
		})
	}
}
