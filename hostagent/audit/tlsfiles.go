// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

const (
	certificateWarning = 30 * 24 * time.Hour
	authorityWarning   = 90 * 24 * time.Hour
)

// date is how a time is shown in evidence: steady from one audit to the next.
func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// agentCertificate judges what stands in cert_file, of all protocols: names of that of RPC, and of each how long it lasts.
func agentCertificate(in *Input) Row {
	r := rpcOf(in)
	if row, ok := withoutCertificate(in, &r); ok {
		return row
	}
	if !in.AgentCertificates.Known {
		return in.AgentCertificates.unknown("the agent's certificates").needing(needsCertificates)
	}
	row := Row{Status: NotApplicable}
	for i := range in.AgentCertificates.Value {
		if c := &in.AgentCertificates.Value[i]; !c.CA {
			row.add(judgeCertificate(in, &r, c))
		}
	}
	row.add(r.noCertificate())
	switch {
	case row.Status != NotApplicable:
	case r.autoEncrypt || r.autoConfig:
		return notApplicable(certificateFromServers)
	case !r.certFile.known:
		return r.certFile.unknown()
	default:
		return notSeen(needsCertificates, "no certificate was read")
	}
	return row
}

const certificateFromServers = "the certificate comes from the servers and stands in no file; the agent renews it by itself"

// withoutCertificate is the row of an agent that is known to have no certificate in a file; false of others.
func withoutCertificate(in *Input, r *rpcTLS) (Row, bool) {
	for _, protocol := range protocols {
		if path := pathsOf(in, protocol).certFile; !path.known || path.value != "" {
			return Row{}, false
		}
	}
	row, off := r.whereOff()
	switch {
	case off:
		return row, true
	case r.autoEncrypt || r.autoConfig:
		return notApplicable(certificateFromServers), true
	}
	return r.noCertificate(), true
}

// noCertificate is the row of an agent that needs a certificate for RPC and has none; of others it says nothing.
func (r *rpcTLS) noCertificate() Row {
	switch {
	case !r.certFile.known, r.certFile.value != "", r.off(), r.autoEncrypt, r.autoConfig:
		return Row{Status: NotApplicable}
	case r.server:
		return failed("this server has no certificate for RPC: " + r.certFile.found)
	}
	return warned("this client has no certificate: servers that verify incoming connections refuse it: " + r.certFile.found)
}

// needing is r with needs where it names none.
func (r Row) needing(needs string) Row {
	if r.Needs == "" {
		r.Needs = needs
	}
	return r
}

// add makes r the worse of both, with what both found.
func (r *Row) add(other Row) {
	if other.Status != NotApplicable && (other.Status.Worse(r.Status) || r.Status == NotApplicable) {
		r.Status = other.Status
	}
	r.Found = append(r.Found, other.Found...)
	if r.Needs == "" {
		r.Needs = other.Needs
	}
}

// judgeCertificate judges one certificate of the agent itself.
func judgeCertificate(in *Input, r *rpcTLS, c *Certificate) Row {
	where := fmt.Sprintf("%s (%s)", c.Path, c.Use)
	if c.Problem != "" || c.X509 == nil {
		return notSeen(needsCertificates, where+": "+c.Problem)
	}
	row := passed(fmt.Sprintf("%s: until %s, %s, names %s", where, date(c.NotAfter), catalog.Clean(c.Subject),
		certificateNames(c)))
	switch {
	case in.Now.After(c.NotAfter):
		row.add(failed(c.Path + " has expired on " + date(c.NotAfter)))
	case in.Now.Before(c.X509.NotBefore):
		row.add(failed(c.Path + " is not valid before " + date(c.X509.NotBefore)))
	case c.NotAfter.Sub(in.Now) < certificateWarning:
		row.add(warned(c.Path + " expires within 30 days, on " + date(c.NotAfter)))
	}
	uses := strings.Split(c.Use, ", ")
	if slices.Contains(uses, "internal_rpc") {
		row.add(judgeNames(in, r, c))
		row.add(judgeChain(in, c))
	}
	if slices.Contains(uses, "https") && c.X509.VerifyHostname("localhost") != nil && c.X509.VerifyHostname("127.0.0.1") != nil {
		row.add(passed(c.Path + " names neither localhost nor 127.0.0.1: clients of this host's HTTPS API have to be told its name"))
	}
	return row
}

func certificateNames(c *Certificate) string {
	if len(c.Names) == 0 {
		return "nothing"
	}
	return strings.Join(c.Names, ", ")
}

// judgeNames holds the names of a certificate for RPC against what the agent is: a server's is server.DATACENTER.DOMAIN, and
// nobody else's is.
func judgeNames(in *Input, r *rpcTLS, c *Certificate) Row {
	datacenter, domain := in.Running.Value.Datacenter, ""
	if !in.Running.Known || datacenter == "" {
		if s, ok := onDisk(in, "dc1", "datacenter"); ok {
			datacenter = strings.ToLower(s.value)
		}
	}
	if in.Running.Known && in.Running.Value.Domain != "" {
		domain = in.Running.Value.Domain
	} else if s, ok := onDisk(in, "consul.", "domain"); ok {
		domain = strings.TrimSuffix(strings.ToLower(s.value), ".")
	}
	if !r.server {
		for _, name := range c.Names {
			if serversName(strings.ToLower(name), datacenter, domain) {
				return failed(fmt.Sprintf("%s names %s, and this agent is a client: whoever has its key is a server to everybody",
					c.Path, name))
			}
		}
		return Row{Status: Pass}
	}
	want := "server." + datacenter + "."
	if domain != "" {
		if want += domain; c.X509.VerifyHostname(want) == nil {
			return Row{Status: Pass}
		}
	} else if slices.ContainsFunc(c.Names, func(name string) bool { return strings.HasPrefix(strings.ToLower(name), want) }) {
		return Row{Status: Pass}
	} else {
		want += "DOMAIN"
	}
	return failed(fmt.Sprintf("%s does not name %s: agents with verify_server_hostname refuse this server", c.Path, want))
}

// serversName tells whether a name in a certificate is one of servers: of this datacenter or another, or a wildcard for it.
// Domain is "" where it is not known.
func serversName(name, datacenter, domain string) bool {
	first, rest, ok := strings.Cut(name, ".")
	if !ok || first != "server" && first != "*" {
		return false
	}
	if domain == "" {
		return strings.HasPrefix(rest, datacenter+".")
	}
	within, ok := strings.CutSuffix(rest, "."+domain)
	return ok && within != "" && !strings.Contains(within, ".")
}

// judgeChain holds a certificate for RPC against the CAs that the agent itself trusts, where these could be read: the
// datacenter has but one CA for agents.
func judgeChain(in *Input, c *Certificate) Row {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: in.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, certificate := range c.Chain {
		options.Intermediates.AddCert(certificate)
	}
	times := []time.Time{c.NotAfter, c.X509.NotBefore}
	valid, path := false, ""
	for _, ca := range in.AgentCertificates.Value {
		switch {
		case !ca.CA || !slices.Contains(strings.Split(ca.Use, ", "), "internal_rpc"):
			continue
		case ca.X509 == nil:
			return notSeen(needsCertificates, fmt.Sprintf("%s cannot be held against %s: %s", c.Path, ca.Path, ca.Problem))
		}
		options.Roots.AddCert(ca.X509)
		times = append(times, ca.X509.NotBefore)
		path, valid = ca.Path, valid || !in.Now.After(ca.NotAfter)
	}
	if path == "" {
		return Row{Status: Pass}
	}
	if _, err := c.X509.Verify(options); err == nil {
		return Row{Status: Pass}
	}
	// Expiry is found before the CA is looked at, and is told of elsewhere: the leaf's above, that of all CAs by their row.
	for _, options.CurrentTime = range times {
		if _, err := c.X509.Verify(options); err != nil {
			continue
		}
		if valid && !in.Now.After(c.NotAfter) && !in.Now.Before(c.X509.NotBefore) {
			return failed(fmt.Sprintf("%s is signed by a CA that is not valid any more, or not yet; %s holds others", c.Path, path))
		}
		return Row{Status: Pass}
	}
	return failed(fmt.Sprintf("%s is not signed by a CA of %s: agents that trust these refuse it", c.Path, path))
}

// agentAuthority judges how long the CAs last that the agent trusts, each use by itself.
func agentAuthority(in *Input) Row {
	r := rpcOf(in)
	if row, ok := r.whereOff(); ok {
		return row
	}
	if r.caFile.known && r.caPath.known && !r.hasCA() {
		return notApplicable("no CA for agents is set: see " + string(catalog.TLSOutgoing))
	}
	if !in.AgentCertificates.Known {
		return in.AgentCertificates.unknown("the CA of agents").needing(needsCertificates)
	}
	row, lasting, read := Row{Status: Pass}, false, 0
	for _, c := range in.AgentCertificates.Value {
		if !c.CA || !slices.Contains(strings.Split(c.Use, ", "), "internal_rpc") {
			continue
		}
		if c.Problem != "" || c.X509 == nil {
			row.add(notSeen(needsCertificates, c.Path+": "+c.Problem))
			continue
		}
		read++
		text := fmt.Sprintf("%s: %s", c.Path, catalog.Clean(c.Subject))
		switch {
		case in.Now.After(c.NotAfter):
			row.add(warned(text + " has expired on " + date(c.NotAfter)))
			continue
		case in.Now.Before(c.X509.NotBefore):
			row.add(warned(text + " is not valid before " + date(c.X509.NotBefore)))
			continue
		case c.NotAfter.Sub(in.Now) < authorityWarning:
			row.add(warned(text + " expires within 90 days, on " + date(c.NotAfter)))
		default:
			row.add(passed(text + " lasts until " + date(c.NotAfter)))
		}
		lasting = true
	}
	switch {
	case read > 0 && !lasting && row.Needs == "":
		row.Status = Fail
	case len(row.Found) == 0:
		return notSeen(needsCertificates, "no certificate of a CA was read")
	}
	return row
}

// keyFiles judges who may read the private keys that the agent's settings name.
func keyFiles(in *Input) Row {
	r := rpcOf(in)
	if !in.KeyFiles.Known {
		if row, ok := withoutCertificate(in, &r); ok {
			if row.Status != NotApplicable {
				row = notApplicable("the agent has no certificate: see " + string(catalog.TLSCertificate))
			}
			return row
		}
		return in.KeyFiles.unknown("where the keys are, which the agent does not tell").needing("--consul-config DIR")
	}
	row := Row{Status: NotApplicable}
	for i := range in.KeyFiles.Value {
		row.add(judgeKeyFile(in, &in.KeyFiles.Value[i]))
	}
	if len(in.KeyFiles.Value) > 0 {
		return row
	}
	if off, ok := r.whereOff(); ok {
		return off
	}
	return notApplicable("no key_file is set")
}

func judgeKeyFile(in *Input, f *File) Row {
	if f.Problem != "" {
		return notSeen(asRoot, f.Path+": "+f.Problem)
	}
	mode := f.Mode.Perm()
	_, group, _ := strings.Cut(f.Owner, ":")
	text := fmt.Sprintf("%s: %s %04o", f.Path, f.Owner, mode)
	if kept := mode & f.Kept; kept&0o066 != 0 {
		text += ", in a folder that keeps others out"
		mode &^= kept
	}
	process := in.Process
	agentsGroup := process.Known && group != "" && group == process.Value.User
	switch {
	case mode&0o006 != 0:
		return failed(text + ": every user of this host can read or change it")
	case mode&0o060 != 0 && len(f.GroupMembers) > 0:
		return warned(fmt.Sprintf("%s: others are in the group: %s", text, strings.Join(f.GroupMembers, ", ")))
	case mode&0o060 != 0 && f.GID != 0 && !agentsGroup:
		return warned(fmt.Sprintf("%s: its group is neither root's nor known to be the agent's own", text))
	case process.Known && f.UID != 0 && f.UID != process.Value.UID:
		return warned(fmt.Sprintf("%s: its owner is neither root nor the agent's user %s", text, process.Value.User))
	}
	return passed(text)
}
