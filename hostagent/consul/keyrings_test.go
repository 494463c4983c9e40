// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// gossipKey is a key of that many bytes, as Consul writes it.
func gossipKey(fill byte, bytes int) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(fill)), bytes)))
}

func TestKeyrings(t *testing.T) {
	one, two, short := gossipKey('a', 32), gossipKey('b', 32), gossipKey('c', 16)
	var raw []struct{ Keys map[string]int }
	if err := json.Unmarshal(recorded(t, "keyring.json"), &raw); err != nil {
		t.Fatal(err)
	}
	var real TokenHash
	for key := range raw[0].Keys {
		real = HashSecret(key)
	}
	for _, tt := range []struct {
		name, body string
		want       []Keyring
	}{
		{"recorded: a server and a client", string(recorded(t, "keyring.json")), []Keyring{
			{Datacenter: "dc1", Nodes: 2, Keys: []GossipKey{{Hash: real, Bytes: 32, Nodes: 2, Primary: 2}}},
			{Datacenter: "dc1", WAN: true, Nodes: 1, Keys: []GossipKey{{Hash: real, Bytes: 32, Nodes: 1, Primary: 1}}},
		}},
		{"a rotation under way", fmt.Sprintf(`[{"Datacenter":"dc2","NumNodes":3,"Keys":{%q:3,%q:2,%q:1},"PrimaryKeys":{%q:2,%q:1}}]`, one, two, short, two, one),
			[]Keyring{{Datacenter: "dc2", Nodes: 3, Keys: []GossipKey{
				{HashSecret(two), 32, 2, 2}, {HashSecret(one), 32, 3, 1}, {HashSecret(short), 16, 1, 0},
			}}}},
		{"an agent that tells of no primary key", fmt.Sprintf(`[{"NumNodes":1,"Keys":{%q:1}}]`, one),
			[]Keyring{{Nodes: 1, Keys: []GossipKey{{HashSecret(one), 32, 1, -1}}}}},
		{"no base64", `[{"NumNodes":1,"Keys":{"!":1},"PrimaryKeys":{}}]`, []Keyring{{Nodes: 1, Keys: []GossipKey{{HashSecret("!"), 0, 1, 0}}}}},
		{"nodes that complain", fmt.Sprintf(`[{"NumNodes":1,"Error":"1/2 nodes reported failure","Messages":{"n2":"no key %s","n1":"late"}}]`, one),
			[]Keyring{{Nodes: 1, Problem: "1/2 nodes reported failure; n1: late; n2: no key (key)"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(reply(200, tt.body))
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).Keyrings(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Without encryption there is no keyring, and only where every ring says so.
func TestNoKeyrings(t *testing.T) {
	off := string(recorded(t, "keyring-off.txt"))
	key := gossipKey('a', 32)
	var large strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&large, "\t* host-%04d: Keyring is empty (encryption not enabled)\n", i)
	}
	manyKeys := map[string]int{}
	for i := range maxRingKeys + 1 {
		manyKeys[gossipKey(byte(i), 32)] = 1
	}
	tooMany, err := json.Marshal(manyKeys)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		kind   Kind
		text   string
	}{
		{"recorded: no encryption", reply(500, off), "", ""},
		{"on a thousand nodes", reply(500, "1001 errors occurred:\n\t* dc1 (LAN) error: 1000/1000 nodes reported failure\n"+large.String()), "", ""},
		{"one ring failed otherwise", reply(500, off+"\t* dc2 (LAN) error: 1/1 nodes reported failure\n\t* h: timeout\n"), KindStatus, "errors occurred"},
		{"not all nodes answered", reply(500, strings.Replace(off, "1/1", "1/2", 1)), KindStatus, "1/2 nodes"},
		{"another failure", reply(500, "No cluster leader"), KindStatus, "No cluster leader"},
		{"nothing said", reply(500, ""), KindStatus, "status 500"},
		{"the words in another status", reply(400, off), KindStatus, "status 400"},
		{"too long to see the end", reply(500, off+strings.Repeat("\n", maxKeyringText)), KindStatus, "status 500"},
		{"a key in the failure", reply(500, "1 error occurred:\n\t* n: cannot remove "+key), KindStatus, "cannot remove (key)"},
		{"a key at the edge of what is shown", reply(500, strings.Repeat("x ", maxErrorBody/2-5)+key), KindStatus, "status 500"},
		{"denied", reply(403, "Permission denied: anonymous token lacks permission 'keyring:read'."), KindDenied, `with this rule: keyring = "read"`},
		{"denied before 1.12", reply(403, "Permission denied"), KindDenied, `this takes keyring = "read"`},
		{"empty", reply(200, "[]"), KindMalformed, "it has no ring"},
		{"null", reply(200, "null"), KindMalformed, "it has no ring"},
		{"object", reply(200, `{"Keys":{"`+key+`":1}}`), KindMalformed, "no JSON list"},
		{"keys in a list", reply(200, `[{"Keys":["`+key+`"]}]`), KindMalformed, "not the form"},
		{"a key for a number", reply(200, `[{"Keys":{"k":"`+key+`"}}]`), KindMalformed, "not the form"},
		{"half", reply(200, `[{"Keys":{"`+key), KindMalformed, "ends in the middle"},
		{"no JSON", reply(200, `[{"Keys":{"`+key+`"`+key+`}}]`), KindMalformed, "no JSON"},
		{"minus one node", reply(200, `[{"NumNodes":-1}]`), KindMalformed, "not the form"},
		{"too many keys", reply(200, `[{"Keys":`+string(tooMany)+`}]`), KindMalformed, "more than 100 keys"},
		{"too many rings", reply(200, "["+strings.Repeat("{},", maxRings)+"{}]"), KindMalformed, "more than 1000 rings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: secret}).Keyrings(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if got != nil {
				t.Errorf("rings: %v", got)
			}
			if err != nil && strings.Contains(err.Error(), key[:8]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestConcealKeys(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"host-1.dc1: no answer", "host-1.dc1: no answer"},
		{"key " + gossipKey('a', 16) + " is in use", "key (key) is in use"},
		{gossipKey('b', 24) + "," + gossipKey(0, 32), "(key),(key)"},
	} {
		if got := concealKeys(tt.text); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.text, got, tt.want)
		}
	}
}

func FuzzKeyrings(f *testing.F) {
	f.Add(recorded(f, "keyring.json"))
	f.Add(recorded(f, "keyring-off.txt"))
	f.Add([]byte(`[{"Keys":{"` + gossipKey('a', 32) + `":"x"}}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		rings, err := decodeKeyrings(body)
		if err == nil && (len(rings) == 0 || len(rings) > maxRings) {
			t.Errorf("%d rings", len(rings))
		}
		if err != nil && strings.Contains(err.Error(), gossipKey('a', 32)[:8]) {
			t.Errorf("the error shows a key: %v", err)
		}
		tellsNoEncryption(body)
	})
}
