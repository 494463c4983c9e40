// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// member is one entry as the agent writes it.
func member(addr string, status int, datacenter string) string {
	return fmt.Sprintf(`{"Name":"n","Addr":%q,"Port":8301,"Tags":{"build":"1.21.0:","dc":%q,"role":"node"},"Status":%d,"ProtocolCur":2}`,
		addr, datacenter, status)
}

// TestMembers: whoever is alive, failed or about to leave is a member; who has left is none, and neither is rubbish.
func TestMembers(t *testing.T) {
	list := func(members ...string) string { return "[" + strings.Join(members, ",") + "]" }
	for _, tt := range []struct {
		name, body, datacenter, want string
	}{
		{"recorded: one alive, one left, one failed", string(recorded(t, "members.json")), "dc1", "[10.98.0.1 10.98.0.3]"},
		{"every status", list(member("10.0.0.5", 0, "dc1"), member("10.0.0.1", 1, "dc1"), member("10.0.0.2", 2, "dc1"),
			member("10.0.0.3", 3, "dc1"), member("10.0.0.4", 4, "dc1"), member("10.0.0.6", 5, "dc1"), member("10.0.0.7", -1, "dc1")),
			"dc1", "[10.0.0.1 10.0.0.2 10.0.0.4]"},
		{"both families, sorted, once", list(member("fd00::2", 1, "dc1"), member("10.0.0.9", 1, "dc1"), member("::ffff:10.0.0.9", 1, "dc1"),
			member("fd00::1", 4, "dc1")), "dc1", "[10.0.0.9 fd00::1 fd00::2]"},
		{"another datacenter", list(member("10.0.0.1", 1, "dc1"), member("10.9.0.1", 1, "dc2")), "dc1", "[10.0.0.1]"},
		{"own datacenter unknown", list(member("10.9.0.1", 1, "dc2"), member("10.0.0.1", 1, "dc1")), "", "[10.0.0.1 10.9.0.1]"},
		{"no tag", `[{"Addr":"10.0.0.2","Status":1},` + member("10.0.0.1", 1, "dc1") + `,` + member("10.9.0.1", 1, "dc2") + `]`, "dc1",
			"[10.0.0.1 10.0.0.2]"},
		{"no addresses", list(member("10.0.0.1", 1, "dc1"), member("", 1, "dc1"), member("host.example", 1, "dc1"), member("10.0.0.0/8", 1, "dc1"),
			member("fe80::1%eth0", 1, "dc1"), member("0.0.0.0", 1, "dc1"), member("::", 1, "dc1"), member("224.0.0.1", 1, "dc1"),
			member("::ffff:0.0.0.0", 1, "dc1"), member("10.0.0.1\t", 1, "dc1"), "null", "{}"), "dc1", "[10.0.0.1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.String() != "/v1/agent/members" {
					t.Errorf("asked for %s", r.URL)
				}
				reply(200, tt.body, allow)(w, r)
			}))
			defer srv.Close()
			members, err := newClient(t, Config{Address: srv.URL}).Members(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(members.Of(tt.datacenter)); got != tt.want {
				t.Errorf("members %s, want %s", got, tt.want)
			}
		})
	}
}

// TestWholeMembers: what is no whole answer is an error that says what to do, and the last whole one is not forgotten.
func TestWholeMembers(t *testing.T) {
	good := string(recorded(t, "members.json"))
	for _, tt := range []struct {
		name   string
		token  string
		answer http.HandlerFunc
		kind   Kind
		text   string
	}{
		{"filtered", secret, reply(200, `[]`, deny, filtered), KindFiltered, `give it node_prefix "" { policy = "read" }`},
		{"filtered in part", secret, reply(200, good, deny, filtered), KindFiltered, "lacks node:read"},
		{"nobody under deny", "", reply(200, `[]`, deny), KindFiltered, "no token was sent"},
		{"no policy without token", "", reply(200, good), KindTooOld, "upgrade Consul"},
		{"forbidden", secret, reply(403, `ACL not found`), KindDenied, "ACL not found"},
		{"empty", secret, reply(200, `[]`, allow), KindMalformed, "not even the agent itself"},
		{"all left", secret, reply(200, `[`+member("10.0.0.1", 3, "dc1")+`]`, allow), KindMalformed, "none of its 1 members has an address"},
		{"object", secret, reply(200, `{}`, allow), KindMalformed, `no JSON list but begins "{}"`},
		{"null", secret, reply(200, `null`, allow), KindMalformed, "no JSON list"},
		{"nothing", secret, reply(200, ``, allow), KindMalformed, "no JSON list"},
		{"half", secret, reply(200, good[:300], allow), KindMalformed, "unexpected EOF"},
		{"list not ended", secret, reply(200, `[`+member("10.0.0.1", 1, "dc1"), allow), KindMalformed, "EOF"},
		{"something behind", secret, reply(200, good+"[]", allow), KindMalformed, "something follows the list"},
		{"number for an address", secret, reply(200, `[{"Addr":7,"Status":1}]`, allow), KindMalformed, "Addr"},
		{"huge status", secret, reply(200, `[{"Addr":"10.0.0.1","Status":1e30}]`, allow), KindMalformed, "Status"},
		{"too many", secret, reply(200, "["+strings.Repeat(`{},`, MaxMembers)+"{}]", allow), KindMalformed, "more than 50000 members"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var now atomic.Value
			now.Store(reply(200, good, allow))
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().(http.HandlerFunc)(w, r) }))
			defer srv.Close()
			c := newClient(t, Config{Address: srv.URL, Token: tt.token, maxBody: 1 << 20})
			first, err := c.Members(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			now.Store(tt.answer)
			got, err := c.Members(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if got.Of("") != nil {
				t.Errorf("got a part of an answer beside the error: %v", got.Of(""))
			}
			now.Store(reply(200, good, allow))
			again, err := c.Members(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first.Of("dc1"), again.Of("dc1"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("members afterwards (-want +got):\n%s", diff)
			}
			if &first.Of("dc1")[0] != &again.Of("dc1")[0] {
				t.Error("an unchanged answer was decoded again")
			}
		})
	}
}

func FuzzDecodeMembers(f *testing.F) {
	f.Add([]byte(`[` + member("10.0.0.1", 1, "dc1") + `]`))
	f.Add([]byte(`[null,{"Tags":null}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		members, err := decodeMembers(body)
		all := members.Of("")
		if (err == nil) != (len(all) > 0) {
			t.Errorf("%d members, %v", len(all), err)
		}
		for _, addr := range all {
			if !isSource(addr) || addr.Is4In6() {
				t.Errorf("let %v in", addr)
			}
		}
	})
}

// BenchmarkMembers decodes 10,000 members, and sees that their body has not changed.
func BenchmarkMembers(b *testing.B) {
	recordedMember := strings.Trim(string(recorded(b, "members.json")), "[]")
	var body strings.Builder
	body.WriteString("[" + recordedMember)
	for i := range 10_000 {
		body.WriteString("," + strings.Replace(member("10.1.2.3", 1, "dc1"), "10.1.2.3", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String(), 1))
	}
	text := []byte(body.String() + "]")
	b.Run("changed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if members, err := decodeMembers(text); err != nil || len(members.Of("dc1")) != 10_002 {
				b.Fatal(err, len(members.Of("dc1")))
			}
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		var known cache[Members]
		for b.Loop() {
			if _, _, err := known.decode(text, decodeMembers); err != nil {
				b.Fatal(err)
			}
		}
	})
}
