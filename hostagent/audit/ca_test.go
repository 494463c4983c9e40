// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/x509"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

const rootID = "d1:bf:c1:f3:b9:62:cd"

// root is an active root as a built-in CA names it.
func root(s *signed, intermediates ...*signed) consul.Root {
	r := consul.Root{ID: rootID, Name: "Consul CA Primary Cert", Active: true, PEM: s.pem()}
	for _, i := range intermediates {
		r.Intermediates = append(r.Intermediates, i.pem())
	}
	return r
}

func mesh(roots ...consul.Root) Input {
	in := tlsInput(true, nil)
	in.Authority = Known(consul.Authority{TrustDomain: "1111.consul", Roots: roots})
	return in
}

func configured(config consul.CAConfig) Input {
	in := mesh(consul.Root{Active: true})
	in.CAConfig = Known(config)
	return in
}

func meshOff() Input {
	in := tlsInput(true, nil)
	in.Authority = Unseen[consul.Authority](reasonMeshOff, "")
	return in
}

func TestMeshEnabled(t *testing.T) {
	unseen := func(enabled *bool, server bool) Input {
		in := tlsInput(server, func(r *consul.Running) { r.ConnectEnabled = enabled })
		in.Authority = Unseen[consul.Authority]("it does not answer", "")
		return in
	}
	checkRows(t, meshEnabled, []judged{
		{"on", mesh(consul.Root{Active: true}), Row{Status: Pass, Found: []string{"the mesh's CA answers, for the trust domain 1111.consul"}}},
		{"off", meshOff(), Row{Status: Fail, Found: []string{"servers answer that the datacenter does without the service mesh"}}},
		{"no root", mesh(), Row{Status: Fail, Found: []string{"the mesh's CA has no root certificate"}, Remedy: "look in the leader's log for why the CA is not made"}},
		{"a server's setting", unseen(new(true), true), Row{Status: Pass, Found: []string{"the agent runs with connect.enabled = true"}}},
		{"off on a server", unseen(new(false), true), Row{Status: Fail, Found: []string{"the agent runs with connect.enabled = false"}}},
		{"a client's setting says nothing", unseen(new(true), false), Row{Status: Unknown, Found: []string{"the mesh's CA: it does not answer"}, Needs: needsRoots}},
		{"a client's files", disk(t, "connect { enabled = true }"), Row{Status: Unknown, Found: []string{"the mesh's CA: it was not asked for"}, Needs: needsRoots}},
		{"a server's files", disk(t, "server = true"), Row{Status: Pass, Found: []string{"no file sets connect.enabled; Consul's default is true"}}},
		{"off in a server's files", disk(t, "server = true\nconnect { enabled = false }"), Row{Status: Fail, Found: []string{"a.hcl:2: connect.enabled = false"}}},
		{"implied in a server's files", disk(t, "server = true\nconnect { enabled = false }\nauto_encrypt { allow_tls = true }"), Row{Status: Pass, Found: []string{
			"a.hcl:3: auto_encrypt.allow_tls = true, which implies connect { enabled = true }"}}},
		{"nothing is known", Input{}, Row{Status: Unknown, Found: []string{"the mesh's CA: it was not asked for"}, Needs: needsRoots}},
	})
}

// TestMeshOff: one row says that there is no mesh, and the others name it.
func TestMeshOff(t *testing.T) {
	in := meshOff()
	for _, j := range caJudges() {
		if j.id == catalog.CAEnabled {
			continue
		}
		if diff := cmp.Diff(notApplicable("the mesh has no CA: see ca-enabled"), j.judge(&in)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", j.id, diff)
		}
	}
}

func TestCAProvider(t *testing.T) {
	named := func(name string) Input { return mesh(consul.Root{Name: name, Active: true}) }
	const raft = ", the built-in one: the root's key lies in the servers' Raft state and in snapshots"
	unknown := "the CA's configuration: it was not asked for"
	checkRows(t, caProvider, []judged{
		{"built in", configured(consul.CAConfig{Provider: "consul"}), Row{Status: Warn, Found: []string{`the CA's provider is "consul"` + raft}}},
		{"built in with a key of the operator's", configured(consul.CAConfig{Provider: "consul", OwnKey: true}), Row{Status: Warn, Found: []string{
			`the CA's provider is "consul", with a key or root of the operator's: it lies in the servers' Raft state and in snapshots, and besides ` +
				`wherever it was made`},
			Remedy: "destroy or lock away the copy that was made outside of Consul, protect snapshots, or move to an external provider: consul connect ca set-config"}},
		{"Vault", configured(consul.CAConfig{Provider: "vault"}), Row{Status: Pass, Found: []string{`the CA's provider is "vault", an external one`}}},
		{"AWS", configured(consul.CAConfig{Provider: "aws-pca"}), Row{Status: Pass, Found: []string{`the CA's provider is "aws-pca", an external one`}}},
		{"another", configured(consul.CAConfig{Provider: "x"}), Row{Status: Unknown, Found: []string{
			`the CA's provider is "x", which says nothing of where the key is`}, Needs: needsCAConfig}},
		{"by the root's name", named("Consul CA Primary Cert"), Row{Status: Warn, Found: []string{`the active root is named "Consul CA Primary Cert"` + raft}}},
		{"by the root's older name", named("Vault CA Root Cert"), Row{Status: Pass, Found: []string{`the active root is named "Vault CA Root Cert", an external one`}}},
		{"AWS by the root's name", named("Aws-Pca CA Primary Cert"), Row{Status: Pass, Found: []string{
			`the active root is named "Aws-Pca CA Primary Cert", an external one`}}},
		{"no name that is known", named("Mine"), Row{Status: Unknown, Found: []string{
			`the active root is named "Mine", which says nothing of where the key is`}, Needs: needsCAConfig}},
		{"no active root", mesh(consul.Root{Name: "Vault CA Root Cert"}), Row{Status: Unknown, Found: []string{"no root of the mesh is active"}, Needs: needsCAConfig}},
		{"files", disk(t, "connect { ca_provider = \"vault\" }"), Row{Status: Unknown, Found: []string{unknown,
			`a.hcl:1: connect.ca_provider = "vault", which ` + bootstrapOnly}, Needs: needsCAConfig}},
		{"files that say nothing", disk(t, "server = true"), Row{Status: Unknown, Found: []string{unknown}, Needs: needsCAConfig}},
	})
}

func TestCARoot(t *testing.T) {
	until := func(n int) Input { return mesh(root(issueCA(t, "root", nil, days(n), nil))) }
	later := issue(t, "root", nil, days(300), nil, func(c *x509.Certificate) { c.NotBefore = days(1) })
	const name = `root "Consul CA Primary Cert" (d1:bf:c1:f3)`
	checkRows(t, caRoot, []judged{
		{"lasts", until(91), Row{Status: Pass, Found: []string{name + " lasts until 2026-08-31"}}},
		{"expires soon", until(89), Row{Status: Warn, Found: []string{name + " expires on 2026-08-29"}}},
		{"expired", until(-1), Row{Status: Fail, Found: []string{name + " has expired on 2026-05-31"}}},
		{"not yet", mesh(root(later)), Row{Status: Fail, Found: []string{name + " is not valid before 2026-06-02"}}},
		{"no PEM", mesh(consul.Root{ID: rootID, Name: "Consul CA Primary Cert", Active: true, PEM: "x"}), Row{Status: Unknown, Found: []string{
			name + ": it is no certificate in PEM"}, Needs: "an agent that tells the root as PEM"}},
		{"rubbish in PEM", mesh(consul.Root{ID: "x", Active: true, PEM: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}), Row{
			Status: Unknown, Found: []string{`root "" (x): it cannot be read as a certificate`}, Needs: "an agent that tells the root as PEM"}},
		{"none active", mesh(consul.Root{}), Row{Status: Unknown, Found: []string{"no root of the mesh is active"}, Needs: "a leader that has made the CA"}},
		{"not known", Input{}, Row{Status: Unknown, Found: []string{"the roots of the mesh: it was not asked for"}, Needs: needsRoots}},
	})
}

func TestCAIntermediate(t *testing.T) {
	top, old := issueCA(t, "root", nil, days(3000), nil), issueCA(t, "old", nil, days(3000), nil)
	crossed := issueCA(t, "root", old, days(-1), top.key)
	until := func(n int) Input { return mesh(root(top, crossed, issueCA(t, "signer", top, days(n), nil))) }
	broken := root(top)
	broken.Intermediates = []string{"x"}
	const name = `the intermediate certificate "signer"`
	bySelf := notApplicable("leaves are signed by the root itself: see ca-root-expiry")
	checkRows(t, caIntermediate, []judged{
		{"the root signs", mesh(root(top)), bySelf},
		{"the root signs, and was signed by the one before", mesh(root(top, crossed)), bySelf},
		{"lasts", until(122), Row{Status: Pass, Found: []string{name + " lasts until 2026-10-01"}}},
		{"not renewed", until(121), Row{Status: Warn, Found: []string{name + " expires on 2026-09-30",
			"Consul renews it at half its life, which was on 2026-01-30, and has not"}}},
		{"expired", until(-1), Row{Status: Fail, Found: []string{name + " has expired on 2026-05-31"}}},
		{"no PEM", mesh(broken), Row{Status: Unknown, Found: []string{
			`an intermediate of root "Consul CA Primary Cert" (d1:bf:c1:f3): it is no certificate in PEM`}, Needs: "an agent that tells it as PEM"}},
		{"no active root", mesh(consul.Root{}), Row{Status: Unknown, Found: []string{"no root of the mesh is active"}, Needs: "see ca-root-expiry"}},
		{"not known", Input{}, Row{Status: Unknown, Found: []string{"the intermediates of the mesh: it was not asked for"}, Needs: needsRoots}},
	})
}

func TestCARotation(t *testing.T) {
	active, old := consul.Root{ID: "aa", Name: "new", Active: true}, consul.Root{ID: "bb", Name: "old"}
	checkRows(t, caRotation, []judged{
		{"one", mesh(active), Row{Status: Pass, Found: []string{`root "new" (aa) is the only one that counts`}}},
		{"two", mesh(old, active), Row{Status: Warn, Found: []string{`a rotation is under way: root "new" (aa) signs`,
			`root "old" (bb) counts until twice the lifetime of a leaf has passed since it was replaced`}}},
		{"none active", mesh(old), Row{Status: Unknown, Found: []string{"no root of the mesh is active"}, Needs: "a leader that has made the CA"}},
		{"not known", Input{}, Row{Status: Unknown, Found: []string{"the roots of the mesh: it was not asked for"}, Needs: needsRoots}},
	})
}

func TestCALeafTTL(t *testing.T) {
	ttl := func(text string) Input { return configured(consul.CAConfig{LeafTTL: text}) }
	checkRows(t, caLeafTTL, []judged{
		{"default", ttl("72h"), Row{Status: Pass, Found: []string{`leaf_cert_ttl = "72h"`}}},
		{"not set", ttl(""), Row{Status: Pass, Found: []string{"leaf_cert_ttl is not set; Consul's default is 72h"}}},
		{"longer", ttl("168h"), Row{Status: Warn, Found: []string{`leaf_cert_ttl = "168h"`}}},
		{"more than a week", ttl("169h"), Row{Status: Fail, Found: []string{`leaf_cert_ttl = "169h": a stolen leaf is good for more than a week`}}},
		{"no duration", ttl("x"), Row{Status: Unknown, Found: []string{`leaf_cert_ttl = "x", which is no duration`}, Needs: "a duration, as in 72h"}},
		{"files", disk(t, "connect { ca_config { leaf_cert_ttl = \"24h\" } }"), Row{Status: Unknown, Found: []string{
			"the CA's configuration: it was not asked for", `a.hcl:1: connect.ca_config.leaf_cert_ttl = "24h", which ` + bootstrapOnly}, Needs: needsCAConfig}},
		{"not allowed", mesh(consul.Root{Active: true}), Row{Status: Unknown, Found: []string{"the CA's configuration: it was not asked for"}, Needs: needsCAConfig}},
	})
}
