// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const meshIsOff = "Connect must be enabled in order to use this endpoint"

func TestAuthority(t *testing.T) {
	const rotation = `{"TrustDomain":"a.consul","Roots":[
		{"ID":"1","Name":"Consul CA Primary Cert","RootCert":"old","IntermediateCerts":null,"Active":false},
		{"ID":"2","Name":"Vault CA Primary Cert","RootCert":"new","IntermediateCerts":["cross","below"],"Active":true}]}`
	roots := func(entries string) string { return `{"TrustDomain":"a.consul","Roots":[` + entries + `]}` }
	active := `{"RootCert":"x","Active":true}`
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   Authority
		kind   Kind
		text   string
	}{
		{name: "a rotation under way", answer: reply(200, rotation), want: Authority{"a.consul", []Root{
			{ID: "1", Name: "Consul CA Primary Cert", PEM: "old"},
			{ID: "2", Name: "Vault CA Primary Cert", PEM: "new", Active: true, Intermediates: []string{"cross", "below"}},
		}}},
		{name: "off", answer: reply(500, meshIsOff), kind: KindMeshOff, text: "Connect must be enabled"},
		{name: "none", answer: reply(200, roots("")), kind: KindMalformed, text: "it has no root certificate"},
		{name: "none is active", answer: reply(200, roots(`{"RootCert":"x"}`)), kind: KindMalformed, text: "not one of its roots is the active one"},
		{name: "two are active", answer: reply(200, roots(active+","+active)), kind: KindMalformed, text: "not one of its roots"},
		{name: "too many intermediates", answer: reply(200, roots(`{"Active":true,"IntermediateCerts":["x"`+strings.Repeat(`,"x"`, maxIntermediates)+`]}`)),
			kind: KindMalformed, text: "more than 50 intermediate"},
		{name: "a huge intermediate", answer: reply(200, roots(`{"Active":true,"IntermediateCerts":["`+strings.Repeat("x", maxRootText+1)+`"]}`)),
			kind: KindMalformed, text: "more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).Authority(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The recorded roots are those of Roots too.
func TestAuthorityRecorded(t *testing.T) {
	got, err := decodeAuthority(recorded(t, "roots.json"))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := decodeRoots(recorded(t, "roots.json"))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, root := range got.Roots {
		texts = append(texts, root.PEM)
		if root.Name != "Consul CA Primary Cert" && root.Name != "Consul CA Root Cert" {
			t.Errorf("name %q", root.Name)
		}
	}
	if diff := cmp.Diff(roots, Roots{got.TrustDomain, texts}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCAConfig(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   CAConfig
		kind   Kind
		text   string
	}{
		{name: "recorded, with an operator's key and root (the key's text is another)", answer: reply(200, string(recorded(t, "ca-configuration-own.json"))),
			want: CAConfig{Provider: "consul", LeafTTL: "24h", OwnKey: true, OwnRoot: true}},
		{name: "the built-in key", answer: reply(200, `{"Provider":"consul","Config":{"LeafCertTTL":"72h","PrivateKey":"","RootCert":null}}`),
			want: CAConfig{Provider: "consul", LeafTTL: "72h"}},
		{name: "as written through the API", answer: reply(200, `{"Provider":"consul","Config":{"leaf_cert_ttl":3600000000000,"private_key":"x","root_cert":"y"}}`),
			want: CAConfig{Provider: "consul", LeafTTL: "1h0m0s", OwnKey: true, OwnRoot: true}},
		{name: "another provider", answer: reply(200, `{"Provider":"vault","Config":{"Token":"s.x","PrivateKey":"x","LeafCertTTL":"a while"}}`),
			want: CAConfig{Provider: "vault", LeafTTL: noDuration}},
		{name: "no config", answer: reply(200, `{"Provider":"aws-pca","Config":null}`), want: CAConfig{Provider: "aws-pca"}},
		{name: "off", answer: reply(500, meshIsOff), kind: KindMeshOff, text: "Connect must be enabled"},
		{name: "denied", answer: reply(403, "Permission denied: token with AccessorID 'x' lacks permission 'operator:write'"), kind: KindDenied, text: `operator = "write"`},
		{name: "denied before 1.12", answer: reply(403, "rpc error making call: Permission denied"), kind: KindDenied, text: `this takes operator = "write"`},
		{name: "no provider", answer: reply(200, `{}`), kind: KindMalformed, text: "it names no provider"},
		{name: "no JSON", answer: reply(200, `{"Config":{"PrivateKey":"`+secret+`"x}}`), kind: KindMalformed, text: "no JSON"},
		{name: "a key for the settings", answer: reply(200, `{"Provider":"consul","Config":"`+gossipKey('k', 32)+`"}`), kind: KindMalformed, text: "not the form"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).CAConfig(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIntentions(t *testing.T) {
	const ask = `[{"SourceName":%q,"DestinationName":"db",%s}]`
	one := func(source string) []Intention { return []Intention{{Source: source, Destination: "db", Allow: true}} }
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   []Intention
		kind   Kind
		text   string
	}{
		{name: "recorded", answer: reply(200, string(recorded(t, "intentions.json"))), want: []Intention{
			{"*", "*", false, false}, {"web", "api", false, true}, {"web", "db", true, false},
		}},
		{name: "none", answer: reply(200, "[]"), want: []Intention{}},
		{name: "as before 1.9", answer: reply(200, `[{"ID":"x","SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"db",
			"SourceType":"consul","Action":"allow","DefaultAddr":"","DefaultPort":0,"Meta":{},"Precedence":8}]`), want: one("*")},
		{name: "all of all namespaces", answer: reply(200, fmt.Sprintf(ask, "*", `"SourceNS":"*","Action":"allow"`)), want: one("*")},
		{name: "all of one namespace", answer: reply(200, fmt.Sprintf(ask, "*", `"SourceNS":"team","SourcePartition":"part","Action":"allow"`)), want: one("part/team/*")},
		{name: "of a peer", answer: reply(200, fmt.Sprintf(ask, "*", `"SourceNS":"default","SourcePeer":"east","Action":"allow"`)), want: one("peer:east/*")},
		{name: "of a sameness group", answer: reply(200, fmt.Sprintf(ask, "web", `"SourceSamenessGroup":"g","Action":"allow"`)), want: one("sameness-group:g/web")},
		{name: "off", answer: reply(500, meshIsOff), kind: KindMeshOff, text: "Connect must be enabled"},
		{name: "a part", answer: reply(200, "[]", filtered), kind: KindFiltered, text: `intentions = "read"`},
		{name: "an unknown action", answer: reply(200, fmt.Sprintf(ask, "*", `"Action":"maybe"`)), kind: KindMalformed, text: "neither allows nor denies"},
		{name: "no action", answer: reply(200, fmt.Sprintf(ask, "*", `"Action":""`)), kind: KindMalformed, text: "neither allows nor denies"},
		{name: "both", answer: reply(200, fmt.Sprintf(ask, "*", `"Action":"deny","Permissions":[{"Action":"allow"}]`)), kind: KindMalformed, text: "neither allows"},
		{name: "without a name", answer: reply(200, fmt.Sprintf(ask, "", `"Action":"deny"`)), kind: KindMalformed, text: "names no source"},
		{name: "too many", answer: reply(200, "["+strings.Repeat("{},", maxIntentions)+"{}]"), kind: KindMalformed, text: "more than 50000 intentions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).Intentions(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServers(t *testing.T) {
	self := string(recorded(t, "self-1.21.0-client.json"))
	server := func(name, addr, port string, status int, datacenter string) string {
		return fmt.Sprintf(`{"Name":%q,"Addr":%q,"Status":%d,"Tags":{"role":"consul","dc":%q,"port":%q}}`, name, addr, status, datacenter, port)
	}
	for _, tt := range []struct {
		name    string
		members http.HandlerFunc
		want    []Server
		kind    Kind
		text    string
	}{
		{name: "recorded: a client and its server", members: reply(200, string(recorded(t, "members-server.json")), deny), want: []Server{{"host-1", "127.0.0.1:8300"}}},
		{name: "sorted, alive and of this datacenter", members: reply(200, "["+strings.Join([]string{
			server("b", "fd00::1", "8300", 1, "dc1"), server("a", "::ffff:10.0.0.1", "9300", 1, "dc1"), server("c", "10.0.0.3", "8300", 4, "dc1"),
			server("d", "10.0.0.4", "8300", 1, "dc2"), `{"Name":"n","Addr":"10.0.0.5","Status":1,"Tags":{"role":"node","dc":"dc1"}}`,
		}, ",")+"]", deny), want: []Server{{"a", "10.0.0.1:9300"}, {"b", "[fd00::1]:8300"}}},
		{name: "none", members: reply(200, `[{"Name":"n","Addr":"10.0.0.5","Status":1,"Tags":{"role":"node","dc":"dc1"}}]`, deny), want: []Server{}},
		{name: "a part", members: reply(200, "[]", deny, filtered), kind: KindFiltered, text: `node_prefix "" { policy = "read" }`},
		{name: "empty", members: reply(200, "[]", deny), kind: KindMalformed, text: "not even the agent itself"},
		{name: "no address", members: reply(200, "["+server("a", "host.example", "8300", 1, "dc1")+"]", deny), kind: KindMalformed, text: "no address"},
		{name: "no port", members: reply(200, "["+server("a", "10.0.0.1", "0", 1, "dc1")+"]", deny), kind: KindMalformed, text: "no address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("/v1/agent/self", reply(200, self, deny))
			mux.HandleFunc("/v1/agent/members", tt.members)
			srv := httptest.NewServer(mux)
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: secret}).Servers(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
