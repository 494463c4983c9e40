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
		{"on", mesh(consul.Root{Active: true}), passed("the mesh's CA answers, for the trust domain 1111.consul")},
		{"off", meshOff(), failed("servers answer that the service mesh is off")},
		{"no root", mesh(), Row{Status: Fail, Found: []string{"the mesh's CA has no root certificate"},
			Remedy: "look in the leader's log for why the CA is not made"}},
		{"a server's setting", unseen(new(true), true), passed("the agent runs with connect.enabled = true")},
		{"off on a server", unseen(new(false), true), failed("the agent runs with connect.enabled = false")},
		{"a client's setting says nothing", unseen(new(true), false), notSeen(needsRoots, "the mesh's CA: it does not answer")},
		{"a client's files", disk(t, "connect { enabled = true }"), notSeen(needsRoots, "the mesh's CA: it was not asked for")},
		{"a server's files", disk(t, "server = true"), passed("no file sets connect.enabled; Consul's default is true")},
		{"off in a server's files", disk(t, "server = true\nconnect { enabled = false }"),
			failed("a.hcl:2: connect.enabled = false")},
		{"implied in a server's files", disk(t, "server = true\nconnect { enabled = false }\nauto_encrypt { allow_tls = true }"),
			passed("a.hcl:3: auto_encrypt.allow_tls = true, which implies connect { enabled = true }")},
		{"nothing is known", Input{}, notSeen(needsRoots, "the mesh's CA: it was not asked for")},
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
	const raft = ", the built-in one: the root's key lies in the Raft state and the snapshots of the servers"
	unknown := "the CA's configuration: it was not asked for"
	secondary := configured(consul.CAConfig{Provider: "vault"})
	secondary.Authority = named("Consul CA Primary Cert").Authority
	secondary.Running = Known(consul.Running{Agent: consul.Agent{Datacenter: "dc2"}, PrimaryDatacenter: "dc1"})
	checkRows(t, caProvider, []judged{
		{"built in", configured(consul.CAConfig{Provider: "consul"}), warned(`the CA's provider is "consul"` + raft)},
		{"built in with a key of the operator's", configured(consul.CAConfig{Provider: "consul", OwnKey: true}),
			Row{Status: Warn, Found: []string{
				`the CA's provider is "consul", with a key or root of the operator's: it lies in the Raft state and the snapshots of ` +
					`the servers, and besides wherever it was made`},
				Remedy: "destroy or lock away the copy that was made outside of Consul, protect snapshots, or move to an external provider: " +
					"consul connect ca set-config"}},
		{"Vault", configured(consul.CAConfig{Provider: "vault"}), passed(`the CA's provider is "vault", an external one`)},
		{"Vault below a root that is built in", secondary, warned(
			`the CA's provider is "vault", an external one, which signs with an intermediate here`,
			`the active root is of the built-in provider: its key lies in the Raft state and the snapshots of the servers of the `+
				`primary datacenter "dc1"`)},
		{"AWS", configured(consul.CAConfig{Provider: "aws-pca"}), passed(`the CA's provider is "aws-pca", an external one`)},
		{"another", configured(consul.CAConfig{Provider: "x"}), notSeen(needsCAConfig,
			`the CA's provider is "x", which says nothing of where the key is`)},
		{"by the root's name", named("Consul CA Primary Cert"), warned(`the active root is named "Consul CA Primary Cert"` + raft)},
		{"by the root's older name", named("Vault CA Root Cert"),
			passed(`the active root is named "Vault CA Root Cert", an external one`)},
		{"AWS by the root's name", named("Aws-Pca CA Primary Cert"),
			passed(`the active root is named "Aws-Pca CA Primary Cert", an external one`)},
		{"no name that is known", named("Mine"), notSeen(needsCAConfig,
			`the active root is named "Mine", which says nothing of where the key is`)},
		{"no active root", mesh(consul.Root{Name: "Vault CA Root Cert"}), notSeen(needsCAConfig, "no root of the mesh is active")},
		{"files", disk(t, "connect { ca_provider = \"vault\" }"), notSeen(needsCAConfig, unknown,
			`a.hcl:1: connect.ca_provider = "vault", which `+bootstrapOnly)},
		{"files that say nothing", disk(t, "server = true"), notSeen(needsCAConfig, unknown)},
	})
}

func TestCARoot(t *testing.T) {
	until := func(n int) Input { return mesh(root(issueCA(t, "root", nil, days(n), nil))) }
	later := issue(t, "root", nil, days(300), nil, func(c *x509.Certificate) { c.NotBefore = days(1) })
	const name = `root "Consul CA Primary Cert" (d1:bf:c1:f3)`
	checkRows(t, caRoot, []judged{
		{"lasts", until(91), passed(name + " lasts until 2026-08-31")},
		{"expires soon", until(89), warned(name + " expires on 2026-08-29")},
		{"expired", until(-1), failed(name + " has expired on 2026-05-31")},
		{"not yet", mesh(root(later)), failed(name + " is not valid before 2026-06-02")},
		{"no PEM", mesh(consul.Root{ID: rootID, Name: "Consul CA Primary Cert", Active: true, PEM: "x"}),
			notSeen("an agent that tells the root as PEM", name+": it is no certificate in PEM")},
		{"rubbish in PEM", mesh(consul.Root{ID: "x", Active: true, PEM: brokenPEM}),
			notSeen("an agent that tells the root as PEM", `root "" (x): it cannot be read as a certificate`)},
		{"none active", mesh(consul.Root{}), notSeen("a leader that has made the CA", "no root of the mesh is active")},
		{"not known", Input{}, notSeen(needsRoots, "the roots of the mesh: it was not asked for")},
	})
}

func TestCAIntermediate(t *testing.T) {
	top, old := issueCA(t, "root", nil, days(3000), nil), issueCA(t, "old", nil, days(3000), nil)
	crossed := issueCA(t, "root", old, days(-1), top.key)
	until := func(n int) Input { return mesh(root(top, crossed, issueCA(t, "signer", top, days(n), nil))) }
	nameless := issue(t, "", top, days(300), nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	broken := root(top)
	broken.Intermediates = []string{"x"}
	const name = `the intermediate certificate "signer"`
	bySelf := notApplicable("leaves are signed by the root itself: see ca-root-expiry")
	checkRows(t, caIntermediate, []judged{
		{"the root signs", mesh(root(top)), bySelf},
		{"the root signs, and was signed by the one before", mesh(root(top, crossed)), bySelf},
		{"lasts", until(122), passed(name + " lasts until 2026-10-01")},
		{"of a secondary datacenter", mesh(root(top, nameless)), passed(
			`the intermediate certificate with serial number 0, issued by "root" lasts until 2027-03-28`)},
		{"not renewed", until(121), warned(name+" expires on 2026-09-30",
			"Consul renews it at half its life, which was on 2026-01-30, and has not")},
		{"expired", until(-1), failed(name + " has expired on 2026-05-31")},
		{"no PEM", mesh(broken), notSeen("an agent that tells it as PEM",
			`an intermediate of root "Consul CA Primary Cert" (d1:bf:c1:f3): it is no certificate in PEM`)},
		{"no active root", mesh(consul.Root{}), notSeen("see ca-root-expiry", "no root of the mesh is active")},
		{"not known", Input{}, notSeen(needsRoots, "the intermediates of the mesh: it was not asked for")},
	})
}

func TestCARotation(t *testing.T) {
	active, old := consul.Root{ID: "aa", Name: "new", Active: true}, consul.Root{ID: "bb", Name: "old"}
	checkRows(t, caRotation, []judged{
		{"one", mesh(active), passed(`root "new" (aa) is the only one that counts`)},
		{"two", mesh(old, active), warned(`a rotation is under way: root "new" (aa) signs`,
			`root "old" (bb) counts until twice the lifetime of a leaf has passed since it was replaced`)},
		{"none active", mesh(old), notSeen("a leader that has made the CA", "no root of the mesh is active")},
		{"not known", Input{}, notSeen(needsRoots, "the roots of the mesh: it was not asked for")},
	})
}

func TestCALeafTTL(t *testing.T) {
	ttl := func(text string) Input { return configured(consul.CAConfig{LeafTTL: text}) }
	checkRows(t, caLeafTTL, []judged{
		{"default", ttl("72h"), passed(`leaf_cert_ttl = "72h"`)},
		{"not set", ttl(""), passed("leaf_cert_ttl is not set; Consul's default is 72h")},
		{"longer", ttl("168h"), warned(`leaf_cert_ttl = "168h"`)},
		{"more than a week", ttl("169h"), failed(`leaf_cert_ttl = "169h": a stolen leaf is good for more than a week`)},
		{"no duration", ttl("x"), notSeen("a duration, as in 72h", `leaf_cert_ttl = "x", which is no duration`)},
		{"files", disk(t, "connect { ca_config { leaf_cert_ttl = \"24h\" } }"),
			notSeen(needsCAConfig, "the CA's configuration: it was not asked for",
				`a.hcl:1: connect.ca_config.leaf_cert_ttl = "24h", which `+bootstrapOnly)},
		{"not allowed", mesh(consul.Root{Active: true}), notSeen(needsCAConfig, "the CA's configuration: it was not asked for")},
	})
}

// TestNothingKnown: what was not seen never passes, and each row says what would show it.
func TestNothingKnown(t *testing.T) {
	in := Input{Now: auditNow, Running: Unseen[consul.Running]("the token may not read it", "agent:read")}
	for _, j := range append(tlsJudges(), caJudges()...) {
		if row := j.judge(&in); row.Status != Unknown || row.Needs == "" || len(row.Found) == 0 {
			t.Errorf("%s: %+v", j.id, row)
		}
	}
}
