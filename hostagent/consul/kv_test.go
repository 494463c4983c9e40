// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// recordedKV is what recorded answers hold: kv.json was read below "hostagent/" of an agent whose ACLs deny by default.
var recordedKV = []KVEntry{
	{Key: "hostagent/"},
	{Key: "hostagent/all.hcl", Value: []byte(`# for all hosts
allow_from  = ["10.0.0.0/8"]
close_delay = "10s"

exempt {
  finding = "exposed-listener"
  service = "legacy"
  reason  = "moves behind its sidecar in spring"
}
`)},
	{Key: "hostagent/empty.hcl"},
	{Key: "hostagent/web/db.hcl", Value: []byte(`report { detail = "counts" }`)},
}

func TestKV(t *testing.T) {
	good := string(recorded(t, "kv.json"))
	const at = "X-Consul-Index: 41"
	pair := func(key, value string) string {
		return fmt.Sprintf(`{"LockIndex": 0, "Key": %q, "Flags": 0, "Value": %q}`, key, base64.StdEncoding.EncodeToString([]byte(value)))
	}
	list := func(pairs ...string) string { return "[" + strings.Join(pairs, ",") + "]" }
	many := func(n int, value string) string {
		pairs := make([]string, n)
		for i := range pairs {
			pairs[i] = pair(fmt.Sprintf("hostagent/%04d", i), value)
		}
		return list(pairs...)
	}
	// All texts of refusals are Consul 1.21's.
	const denied = `Permission denied: token with AccessorID '962416c6-7e2d-e542-c014-d4d89eba54d9' lacks permission 'key:list' on "hostagent/"`
	const anonymous = `Permission denied: anonymous token lacks permission 'key:list' on "hostagent/". ` +
		`The anonymous token is used implicitly when a request does not specify a token.`
	const rule = `key_prefix "hostagent/" { policy = "list" }`
	for _, tt := range []struct {
		name   string
		token  string
		answer http.HandlerFunc
		want   []KVEntry
		index  uint64
		kind   Kind
		text   string
	}{
		{"first", secret, reply(200, good, at, deny), recordedKV, 41, "", ""},
		{"without ACLs", "", reply(200, good, at, allow), recordedKV, 41, "", ""},
		{"in another order", secret, reply(200, list(pair("hostagent/b", ""), pair("hostagent/a", "x")), at, deny),
			[]KVEntry{{Key: "hostagent/a", Value: []byte("x")}, {Key: "hostagent/b", Value: []byte{}}}, 41, "", ""},
		{"backwards", secret, reply(200, good, "X-Consul-Index: 6", deny), recordedKV, 0, "", ""},
		{"no keys", secret, reply(404, "", at, deny), nil, 41, "", ""},
		{"as many as can be", secret, reply(200, many(maxKVKeys, ""), at, deny), nil, 41, "", ""},

		{"emptied by ACLs", secret, reply(404, "", at, deny, filtered), nil, 0, KindFiltered, rule},
		{"thinned by ACLs", secret, reply(200, good, at, deny, filtered), nil, 0, KindFiltered, rule},
		{"emptied for nobody", "", reply(404, "", at, deny), nil, 0, KindFiltered, "no token was sent"},
		{"thinned for nobody", "", reply(200, good, at, deny), nil, 0, KindFiltered, "no token was sent"},
		{"of an old agent", secret, reply(200, good, at), nil, 0, KindTooOld, "upgrade Consul"},
		{"emptied by an old agent", secret, reply(404, "", at), nil, 0, KindTooOld, "upgrade Consul"},
		{"denied", secret, reply(403, denied), nil, 0, KindDenied, "of the token: " + rule},
		{"denied to nobody", "", reply(403, anonymous), nil, 0, KindDenied, "with this rule: " + rule},
		{"denied without a reason", secret, reply(403, "Permission denied"), nil, 0, KindDenied, "this takes " + rule}, // Consul before 1.12
		{"an unknown token", secret, reply(403, "ACL not found"), nil, 0, KindDenied, "does not know this token"},
		{"no servers", secret, reply(500, "No cluster leader"), nil, 0, KindStatus, "No cluster leader"},
		{"throttled", secret, reply(429, "rate limit exceeded"), nil, 0, KindThrottled, "429"},
		{"another server's 404", secret, reply(404, "404 page not found", deny), nil, 0, KindMalformed, "address of a Consul agent"},
		{"index 0", secret, reply(200, good, "X-Consul-Index: 0", deny), nil, 0, KindMalformed, "missing or 0"},
		{"an object", secret, reply(200, "{}", at, deny), nil, 0, KindMalformed, "no JSON list"},
		{"half of it", secret, reply(200, good[:len(good)/2], at, deny), nil, 0, KindMalformed, "cannot read the keys"},
		{"no base64", secret, reply(200, `[{"Key": "hostagent/a", "Value": "%"}]`, at, deny), nil, 0, KindMalformed, "form"},
		{"outside the prefix", secret, reply(200, list(pair("other/a", "")), at, deny), nil, 0, KindMalformed, `not below "hostagent/"`},
		{"a key twice", secret, reply(200, list(pair("hostagent/a", "1"), pair("hostagent/a", "2")), at, deny), nil, 0, KindMalformed, "twice"},
		{"too many keys", secret, reply(200, many(maxKVKeys+1, ""), at, deny), nil, 0, KindMalformed, "more than 1000 keys"},
		{"a long key", secret, reply(200, list(pair("hostagent/"+strings.Repeat("x", maxKVKey), "")), at, deny), nil, 0, KindMalformed, "at most 500"},
		{"too much", secret, reply(200, many(2, strings.Repeat("x", maxKVBytes/2+1)), at, deny), nil, 0, KindMalformed, "512 KiB"},
		{"much too much", secret, reply(200, many(2, strings.Repeat("x", maxKVBody)), at, deny), nil, 0, KindMalformed, "512 KiB"},
		{"shows the token", secret, reply(500, "X-Consul-Token: "+secret), nil, 0, KindStatus, "(token)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				wait, err := time.ParseDuration(q.Get("wait"))
				if r.URL.Path != "/v1/kv/hostagent/" || !q.Has("stale") || !q.Has("recurse") || q.Get("index") != "7" ||
					err != nil || wait < changeWait*9/10 || wait > changeWait {
					t.Errorf("got request %s", r.URL)
				}
				tt.answer(w, r)
			}))
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: tt.token}).KV(t.Context(), "hostagent/", 7)
			checkError(t, err, tt.kind, tt.text)
			if got.Index != tt.index {
				t.Errorf("index is %d, want %d", got.Index, tt.index)
			}
			if tt.want == nil && (err != nil || tt.name == "no keys") && got.Entries != nil {
				t.Errorf("got %v", got.Entries)
			}
			if diff := gocmp.Diff(tt.want, got.Entries); tt.want != nil && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestKVWaits: longer than any other request may take where it waits for something, and no longer where it does not.
func TestKVWaits(t *testing.T) {
	const timeout = 20 * time.Millisecond
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Has("index") != q.Has("wait") {
			t.Errorf("got request %s", r.URL)
		}
		select {
		case <-r.Context().Done():
		case <-time.After(5 * timeout):
		}
		reply(404, "", "X-Consul-Index: 7", allow)(w, r)
	}))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL, Timeout: timeout})
	if _, err := c.KV(t.Context(), "hostagent/", 7); err != nil {
		t.Error(err)
	}
	if _, err := c.KV(t.Context(), "hostagent/", 0); KindOf(err) != KindTimeout {
		t.Errorf("a question that nothing keeps waited: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if _, err := c.KV(ctx, "hostagent/", 7); err == nil {
		t.Error("it outlived its context")
	}
}
