// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestRoots reads what an agent said in the middle of a rotation, to nobody and under default deny.
func TestRoots(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/v1/agent/connect/ca/roots" {
			t.Errorf("asked for %s", r.URL)
		}
		reply(200, string(recorded(t, "roots.json")), deny)(w, r)
	}))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL})
	roots, err := c.Roots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := "5a91d4ee-2ca7-9bc8-f68c-13f7c85298bd.consul"; roots.TrustDomain != want || len(roots.PEM) != 2 {
		t.Errorf("trust domain %q with %d roots, want %q with 2", roots.TrustDomain, len(roots.PEM), want)
	}
	for i, text := range roots.PEM {
		if !strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----\n") {
			t.Errorf("root %d is %q", i, text)
		}
	}
	again, err := c.Roots(t.Context())
	if err != nil || &again.PEM[0] != &roots.PEM[0] {
		t.Errorf("an unchanged answer was decoded again: %v", err)
	}
}

func TestNoRoots(t *testing.T) {
	root := fmt.Sprintf(`{"RootCert":%q}`, strings.Repeat("x", 20))
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		kind   Kind
		text   string
	}{
		{"the mesh is off", reply(500, "Connect must be enabled in order to use this endpoint", allow), KindMeshOff, "Connect must be enabled"},
		{"the mesh is off, by a server", reply(500, "rpc error making call: Connect must be enabled in order to use this endpoint", allow), KindMeshOff, "Connect must be"},
		{"no server was ever reached", reply(500, "No known Consul servers", allow), KindStatus, "No known Consul servers"},
		{"no such endpoint", reply(404, "Invalid URL path: not a recognized HTTP API endpoint", allow), KindStatus, "status 404"},
		{"null", reply(200, "null", allow), KindMalformed, "no JSON object"},
		{"list", reply(200, "[]", allow), KindMalformed, "no JSON object"},
		{"empty", reply(200, "{}", allow), KindMalformed, "it names no trust domain"},
		{"no roots", reply(200, `{"TrustDomain":"a.consul","Roots":null}`, allow), KindMalformed, "it has no root certificate"},
		{"half", reply(200, `{"TrustDomain":"a.consul","Roots":[`, allow), KindMalformed, "unexpected end"},
		{"number for a certificate", reply(200, `{"TrustDomain":"a.consul","Roots":[{"RootCert":7}]}`, allow), KindMalformed, "RootCert"},
		{"too many", reply(200, `{"TrustDomain":"a.consul","Roots":[`+strings.Repeat(root+",", maxRoots)+root+`]}`, allow), KindMalformed,
			"more than 100 root certificates"},
		{"huge", reply(200, fmt.Sprintf(`{"TrustDomain":"a.consul","Roots":[{"RootCert":%q}]}`, strings.Repeat("x", maxRootText+1)), allow),
			KindMalformed, "more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).Roots(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if got.PEM != nil {
				t.Errorf("got roots beside the error: %v", got)
			}
		})
	}
}
