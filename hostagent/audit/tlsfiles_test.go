// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/x509"
	"testing"

	"github.com/hostagent/hostagent/hostagent/consul"
)

func TestAgentCertificate(t *testing.T) {
	ca, other := issueCA(t, "agents", nil, days(1000), nil), issueCA(t, "other", nil, days(1000), nil)
	ended := issueCA(t, "ended", nil, days(-1), nil)
	between := issueCA(t, "between", ca, days(900), nil)
	with := func(server bool, certificates ...Certificate) Input {
		in := tlsInput(server, nil)
		in.AgentCertificates = Known(certificates)
		return in
	}
	rpc := func(s *signed) Certificate { return onFile("internal_rpc", certPath, false, s) }
	trusts := func(s *signed) Certificate { return onFile("internal_rpc", caPath, true, s) }
	good := issueLeaf(t, ca, days(31), "server.dc1.consul", "localhost")
	chained := rpc(issueLeaf(t, between, days(300), "server.dc1.consul"))
	chained.Chain = []*x509.Certificate{between.x509}
	shown := func(names, until string) string {
		return certPath + " (internal_rpc): until " + until + ", CN=agent, names " + names
	}
	const refused = certPath + " does not name server.dc1.DOMAIN: agents with verify_server_hostname refuse this server"
	unread := Certificate{Use: "internal_rpc", Path: certPath, Problem: "permission denied"}
	later := issue(t, "agent", ca, days(300), nil, func(c *x509.Certificate) {
		c.NotBefore, c.DNSNames = days(1),
			[]string{"server.dc1.consul"}
	})
	web := issue(t, "web", other, days(300), nil, func(c *x509.Certificate) { c.DNSNames = []string{"web.example"} })
	local := issue(t, "web", other, days(300), nil, addresses("127.0.0.1"))
	domain := with(true, trusts(ca), rpc(good))
	domain.Disk = disk(t, `domain = "mesh.example"`).Disk
	onlyHTTPS := tlsInput(true, func(r *consul.Running) { r.RPC.CertFile, r.HTTPS.CertFile = new(""), new("/web.pem") })
	onlyHTTPS.AgentCertificates = Known([]Certificate{onFile("https", "/web.pem", false, local)})
	told := with(true, trusts(ca), rpc(good))
	told.Running.Value.Domain = "mesh.example"
	told.Disk = disk(t, `domain = "consul"`).Disk // written since
	toldClient := with(false, trusts(ca), rpc(issueLeaf(t, ca, days(300), "server.dc2.consul")))
	toldClient.Running.Value.Domain = "consul"
	checkRows(t, agentCertificate, []judged{
		{"server of a domain that the agent tells", told, failed(shown("server.dc1.consul, localhost", "2026-07-02"),
			certPath+" does not name server.dc1.mesh.example: agents with verify_server_hostname refuse this server")},
		{"client as a server of another datacenter", toldClient, failed(shown("server.dc2.consul", "2027-03-28"),
			certPath+" names server.dc2.consul, and this agent is a client: whoever has its key is a server to everybody")},
		{"server", with(true, trusts(ca), rpc(good)), passed(shown("server.dc1.consul, localhost", "2026-07-02"))},
		{"expires soon", with(true, trusts(ca), rpc(issueLeaf(t, ca, days(29), "server.dc1.consul"))),
			warned(shown("server.dc1.consul", "2026-06-30"), certPath+" expires within 30 days, on 2026-06-30")},
		{"expired", with(true, trusts(ca), rpc(issueLeaf(t, ca, days(-1), "server.dc1.consul"))),
			failed(shown("server.dc1.consul", "2026-05-31"), certPath+" has expired on 2026-05-31")},
		{"not yet", with(true, trusts(ca), rpc(later)), failed(shown("server.dc1.consul", "2027-03-28"),
			certPath+" is not valid before 2026-06-02")},
		{"server by another name", with(true, trusts(ca), rpc(issueLeaf(t, ca, days(300), "server.dc2.consul"))),
			failed(shown("server.dc2.consul", "2027-03-28"), refused)},
		{"server of another domain", domain, failed(shown("server.dc1.consul, localhost", "2026-07-02"),
			certPath+" does not name server.dc1.mesh.example: agents with verify_server_hostname refuse this server")},
		{"client", with(false, trusts(ca), rpc(issueLeaf(t, ca, days(300), "client.dc1.consul"))),
			passed(shown("client.dc1.consul", "2027-03-28"))},
		{"client as a server", with(false, trusts(ca), rpc(good)), failed(shown("server.dc1.consul, localhost", "2026-07-02"),
			certPath+" names server.dc1.consul, and this agent is a client: whoever has its key is a server to everybody")},
		{"client with a wildcard", with(false, trusts(ca), rpc(issueLeaf(t, ca, days(300), "*.dc1.consul"))),
			failed(shown("*.dc1.consul", "2027-03-28"), certPath+" names *.dc1.consul, and this agent is a client: whoever has its "+
				"key is a server to everybody")},
		{"client with a name that is like a server's", with(false, trusts(ca),
			rpc(issueLeaf(t, ca, days(300), "server.example.com"))),
			passed(shown("server.example.com", "2027-03-28"))},
		{"another CA", with(true, trusts(other), rpc(good)), failed(shown("server.dc1.consul, localhost", "2026-07-02"),
			certPath+" is not signed by a CA of "+caPath+": agents that trust these refuse it")},
		{"through an intermediate", with(true, trusts(ca), chained), passed(shown("server.dc1.consul", "2027-03-28"))},
		{"its CA has expired, as the other row says", with(true, trusts(ended),
			rpc(issueLeaf(t, ended, days(300), "server.dc1.consul"))),
			passed(shown("server.dc1.consul", "2027-03-28"))},
		{"its CA has expired, and the new one did not sign it", with(true, trusts(ended), trusts(ca),
			rpc(issueLeaf(t, ended, days(300), "server.dc1.consul"))),
			failed(shown("server.dc1.consul", "2027-03-28"),
				certPath+" is signed by a CA that is not valid any more, or not yet; "+caPath+" holds others")},
		{"its CA cannot be read", with(true, Certificate{Use: "internal_rpc", Path: caPath, CA: true, Problem: "permission denied"},
			rpc(good)),
			notSeen(needsCertificates, shown("server.dc1.consul, localhost", "2026-07-02"),
				certPath+" cannot be held against "+caPath+": permission denied")},
		{"cannot be read", with(true, unread), notSeen(needsCertificates, certPath+" (internal_rpc): permission denied")},
		{"HTTPS of a public CA", with(true, trusts(ca), rpc(good), onFile("https", "/web.pem", false, web)),
			passed(shown("server.dc1.consul, localhost", "2026-07-02"), "/web.pem (https): until 2027-03-28, CN=web, names web.example",
				"/web.pem names neither localhost nor 127.0.0.1: clients of this host's HTTPS API have to be told its name")},
		{"HTTPS on loopback", with(true, trusts(ca), rpc(good), onFile("https", "/web.pem", false, local)),
			passed(shown("server.dc1.consul, localhost", "2026-07-02"), "/web.pem (https): until 2027-03-28, CN=web, names 127.0.0.1")},
		{"not read", tlsInput(true, nil), notSeen(needsCertificates, "the agent's certificates: it was not asked for")},
		{"no TLS", tlsInput(true, noTLS), notApplicable(seeOff)},
		{"auto_encrypt", tlsInput(false, autoEncrypt(caPath)), notApplicable(certificateFromServers)},
		{"server without one", tlsInput(true, func(r *consul.Running) { r.RPC.CertFile = new("") }),
			failed(`this server has no certificate for RPC: ` + runsCert + `""`)},
		{"server with one for HTTPS alone", onlyHTTPS, failed("/web.pem (https): until 2027-03-28, CN=web, names 127.0.0.1",
			`this server has no certificate for RPC: `+runsCert+`""`)},
		{"client without one", tlsInput(false, func(r *consul.Running) { r.RPC.CertFile = new("") }),
			warned(`this client has no certificate: servers that verify incoming connections refuse it: ` + runsCert + `""`)},
	})
}

func TestAgentAuthority(t *testing.T) {
	with := func(certificates ...Certificate) Input {
		in := tlsInput(true, nil)
		in.AgentCertificates = Known(certificates)
		return in
	}
	until := func(name string, days int) Certificate {
		return onFile("internal_rpc, https", caPath, true, issueCA(t, name, nil, auditNow.AddDate(0, 0, days), nil))
	}
	ofHTTPS := until("web", -1)
	ofHTTPS.Use = "https"
	late := onFile("internal_rpc", caPath, true, issue(t, "late", nil, days(300), nil,
		func(c *x509.Certificate) { c.NotBefore = days(2) }))
	unread := Certificate{Use: "internal_rpc", Path: caPath, CA: true, Problem: "permission denied"}
	checkRows(t, agentAuthority, []judged{
		{"lasts", with(until("a", 91), ofHTTPS), passed(caPath + ": CN=a lasts until 2026-08-31")},
		{"expires soon", with(until("a", 89)), warned(caPath + ": CN=a expires within 90 days, on 2026-08-29")},
		{"expired", with(until("a", -1)), failed(caPath + ": CN=a has expired on 2026-05-31")},
		{"not yet", with(late), failed(caPath + ": CN=late is not valid before 2026-06-03")},
		{"an old one beside", with(until("a", -1), until("b", 300)), warned(caPath+": CN=a has expired on 2026-05-31",
			caPath+": CN=b lasts until 2027-03-28")},
		{"not readable", with(unread), notSeen(needsCertificates, caPath+": permission denied")},
		{"expired, and another is not readable", with(until("a", -1), unread), Row{Status: Warn, Found: []string{
			caPath + ": CN=a has expired on 2026-05-31", caPath + ": permission denied"}, Needs: needsCertificates}},
		{"none read", with(), notSeen(needsCertificates, "no certificate of a CA was read")},
		{"not looked at", tlsInput(true, nil), notSeen(needsCertificates, "the CA of agents: it was not asked for")},
		{"no TLS", tlsInput(true, noTLS), notApplicable(seeOff)},
		{"no CA", tlsInput(false, autoEncrypt("")), notApplicable("no CA for agents is set: see tls-verify-outgoing")},
	})
}

func TestKeyFiles(t *testing.T) {
	const path = "/etc/consul.d/key.pem"
	with := func(files ...File) Input {
		in := tlsInput(true, nil)
		in.KeyFiles, in.Process = Known(files), Known(Process{UID: 100, User: "consul"})
		return in
	}
	agents := File{Path: path, Mode: 0o640, UID: 0, GID: 101, Owner: "root:consul"}
	changed := func(change func(*File)) File {
		f := agents
		change(&f)
		return f
	}
	nobody := with(agents)
	nobody.Process = Seen[Process]{}
	const group = ": its group is neither root's nor known to be the agent's own"
	checkRows(t, keyFiles, []judged{
		{"the agent's group", with(agents), passed(path + ": root:consul 0640")},
		{"the agent's alone", with(File{Path: path, Mode: 0o600, UID: 100, GID: 7, Owner: "consul:x"}),
			passed(path + ": consul:x 0600")},
		{"root's group", with(File{Path: path, Mode: 0o640, Owner: "root:root"}), passed(path + ": root:root 0640")},
		{"all may read", with(agents, changed(func(f *File) { f.Path, f.Mode = "/b", 0o644 })),
			failed(path+": root:consul 0640", "/b: root:consul 0644: every user of this host can read or change it")},
		{"all may write", with(changed(func(f *File) { f.Mode = 0o602 })),
			failed(path + ": root:consul 0602: every user of this host can read or change it")},
		{"all may read, in a closed folder", with(changed(func(f *File) { f.Mode, f.Kept = 0o644, 0o077 })),
			passed(path + ": root:consul 0644, in a folder that keeps others out")},
		{"all may read, in a folder that is closed to the group", with(changed(func(f *File) { f.Mode, f.Kept = 0o644, 0o070 })),
			failed(path + ": root:consul 0644, in a folder that keeps others out: every user of this host can read or change it")},
		{"a group of others", with(changed(func(f *File) { f.GID, f.Owner = 7, "root:ssl" })),
			warned(path + ": root:ssl 0640" + group)},
		{"the group has others", with(changed(func(f *File) { f.GroupMembers = []string{"ann", "bob"} })),
			warned(path + ": root:consul 0640: others are in the group: ann, bob")},
		{"the agent's user is not known", nobody, warned(path + ": root:consul 0640" + group)},
		{"somebody else's", with(File{Path: path, Mode: 0o600, UID: 7, Owner: "ann:ann"}),
			warned(path + ": ann:ann 0600: its owner is neither root nor the agent's user consul")},
		{"not seen", with(File{Path: path, Problem: "permission denied"}), notSeen("run as root", path+": permission denied")},
		{"not told", tlsInput(true, nil), notSeen("--consul-config DIR",
			"where the keys are, which the agent does not tell: it was not asked for")},
		{"no TLS", tlsInput(true, noTLS), notApplicable(seeOff)},
		{"no certificate", tlsInput(true, func(r *consul.Running) { r.RPC.CertFile = new("") }),
			notApplicable("the agent has no certificate: see tls-certificate")},
		{"no key", with(), notApplicable("no key_file is set")},
	})
}
