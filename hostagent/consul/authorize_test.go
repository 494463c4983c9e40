// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// authorizer answers as Consul 1.21.0 was seen to: whoever sends the token may read, and nobody may do anything.
func authorizer(t *testing.T, requests *[]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var rights []map[string]any
		if err := json.NewDecoder(r.Body).Decode(&rights); err != nil {
			t.Error(err)
		}
		*requests = append(*requests, fmt.Sprintf("%s %s %q %d", r.Method, r.URL, r.Header.Get("X-Consul-Token"), len(rights)))
		if len(rights) > 64 {
			http.Error(w, "Refusing to process more than 64 authorizations at once", http.StatusBadRequest)
			return
		}
		for _, right := range rights {
			right["Allow"] = r.Header.Get("X-Consul-Token") == secret && right["Access"] == "read"
		}
		if err := json.NewEncoder(w).Encode(rights); err != nil {
			t.Error(err)
		}
	}
}

func TestAuthorize(t *testing.T) {
	var requests []string
	srv := httptest.NewServer(authorizer(t, &requests))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL, Token: secret})
	rights := make([]Right, 65)
	want := make([]bool, 65)
	for i := range rights {
		rights[i] = Right{"service", fmt.Sprint(i), "write"}
		if want[i] = i%3 == 0; want[i] {
			rights[i].Access = "read"
		}
	}
	for _, tt := range []struct {
		name      string
		anonymous bool
		rights    []Right
		want      []bool
		requests  []string
	}{
		{"the token's", false, []Right{{"acl", "", "read"}, {"intention", "*", "write"}}, []bool{true, false},
			[]string{`POST /v1/internal/acl/authorize "` + secret + `" 2`}},
		{"nobody's", true, []Right{{"acl", "", "read"}}, []bool{false}, []string{`POST /v1/internal/acl/authorize "" 1`, `POST /v1/internal/acl/authorize "anonymous" 1`}},
		{"none", false, nil, []bool{}, nil},
		{"more than an agent takes at once", false, rights, want,
			[]string{`POST /v1/internal/acl/authorize "` + secret + `" 64`, `POST /v1/internal/acl/authorize "` + secret + `" 1`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests = nil
			got, err := c.Authorize(t.Context(), tt.anonymous, tt.rights...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.requests, requests); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// Nobody's rights can be asked for while the token's file cannot be read.
func TestAuthorizeWithoutTokenFile(t *testing.T) {
	var requests []string
	srv := httptest.NewServer(authorizer(t, &requests))
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Config{Address: srv.URL, TokenFile: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Authorize(t.Context(), true, Right{"acl", "", "read"}); err != nil {
		t.Error(err)
	}
	_, err := c.Authorize(t.Context(), false, Right{"acl", "", "read"})
	checkError(t, err, KindToken, "cannot read the Consul token")
	if len(requests) != 2 { // nobody's
		t.Errorf("requests: %q", requests)
	}
}

func TestNotAuthorized(t *testing.T) {
	const right = `{"Resource":"acl","Segment":"","Access":"read","Allow":true}`
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		kind   Kind
		text   string
	}{
		{"ACLs are off", reply(401, "ACL support disabled"), KindACLsOff, "ACL support disabled"},
		{"401 of somebody else", reply(401, "who are you?"), KindDenied, "status 401"},
		{"an unknown token", reply(403, "ACL not found"), KindDenied, "Consul does not know this token"},
		{"an unknown resource", reply(400, `Invalid ACL resource requested: "bogus"`), KindStatus, "Invalid ACL resource"},
		{"it repeats the token", reply(400, "token "+secret), KindStatus, "token (token)"},
		{"redirect", reply(302, "", "Location: /elsewhere"), KindStatus, "an agent does not redirect"},
		{"null", reply(200, "null"), KindMalformed, "0 answers to 1 questions"},
		{"object", reply(200, "{}"), KindMalformed, "no JSON list"},
		{"too few", reply(200, "[]"), KindMalformed, "0 answers to 1 questions"},
		{"too many", reply(200, "["+right+","+right+"]"), KindMalformed, "2 answers to 1 questions"},
		{"far too many", reply(200, "["+strings.Repeat(right+",", 64)+right+"]"), KindMalformed, "more than 64 answers"},
		{"to another question", reply(200, "["+strings.Replace(right, "read", "list", 1)+"]"), KindMalformed, "another question"},
		{"half", reply(200, "["+right), KindMalformed, "ends in the middle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: secret}).Authorize(t.Context(), false, Right{"acl", "", "read"})
			checkError(t, err, tt.kind, tt.text)
			if got != nil {
				t.Errorf("answers beside the error: %v", got)
			}
		})
	}
}

// An agent with a default token answers with its rights whoever brings none; who calls himself anonymous has others.
func TestAuthorizeAnonymous(t *testing.T) {
	rights := []Right{{"service", "web", "write"}, {"service", "anonymous", "write"}, {"service", "db", "write"}}
	for _, tt := range []struct {
		name    string
		without string // what may be written without a token
		named   string // and by the anonymous token
		deleted bool
		want    []bool
	}{
		{"both", "web", "db", false, []bool{true, false, true}},
		{"its own name", "", "anonymous", false, []bool{false, true, false}},
		{"no anonymous token", "web", "", true, []bool{true, false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				may := map[string]string{"": tt.without, "anonymous": tt.named}[r.Header.Get("X-Consul-Token")]
				if tt.deleted && r.Header.Get("X-Consul-Token") != "" {
					http.Error(w, "ACL not found", http.StatusForbidden)
					return
				}
				var asked []map[string]any
				if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
					t.Error(err)
				}
				for _, right := range asked {
					right["Allow"] = right["Segment"] == may
				}
				if err := json.NewEncoder(w).Encode(asked); err != nil {
					t.Error(err)
				}
			}))
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: secret}).Authorize(t.Context(), true, rights...)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v, -want +got\n%s", err, diff)
			}
		})
	}
}
