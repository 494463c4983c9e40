// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func caJudges() []judge {
	return []judge{
		{catalog.CAEnabled, meshEnabled},
		{catalog.CAProvider, meshOnly(caProvider)},
		{catalog.CARoot, meshOnly(caRoot)},
		{catalog.CAIntermediate, meshOnly(caIntermediate)},
		{catalog.CARotation, meshOnly(caRotation)},
		{catalog.CALeafTTL, meshOnly(caLeafTTL)},
	}
}

// reasonMeshOff is the Reason of Input.Authority where the datacenter does without the mesh (consul.KindMeshOff).
const reasonMeshOff = "the service mesh is off"

const (
	// Since Consul 1.10 reading the configuration takes the right to write it.
	needsCAConfig = `hostagent audit with a token that has operator = "write"`
	needsRoots    = "the address of the local agent"
	// bootstrapOnly is why files do not tell how the CA is configured.
	bootstrapOnly = "counts only when the datacenter's CA is made for the first time: consul connect ca set-config stands over it"

	leafTTL     = 72 * time.Hour // Consul's own default
	longLeafTTL = 7 * 24 * time.Hour
)

// meshEnabled judges whether there is a CA, which any agent tells. Without an agent only a server's files do.
func meshEnabled(in *Input) Row {
	if in.Authority.Known {
		if len(in.Authority.Value.Roots) == 0 {
			return Row{
				Status: Fail, Found: []string{"the mesh's CA has no root certificate"},
				Remedy: "look in the leader's log for why the CA is not made",
			}
		}
		return passed("the mesh's CA answers, for the trust domain " + in.Authority.Value.TrustDomain)
	}
	if in.Authority.Reason == reasonMeshOff {
		return failed("servers answer that " + reasonMeshOff)
	}
	if r := rpcOf(in); r.server {
		// Since Consul 1.14 the default is on; a running agent tells what counts.
		s := settingOf(in, in.Running.Value.ConnectEnabled, true, "connect.enabled")
		allow, _ := onDisk(in, false, "auto_encrypt.allow_tls")
		switch {
		case s.known && s.value:
			return passed(s.found).doubted(in, "connect.enabled")
		case s.known && allow.value && (!in.Running.Known || in.Running.Value.ConnectEnabled == nil):
			return passed(allow.found + ", which implies connect { enabled = true }")
		case s.known:
			return failed(s.found)
		}
	}
	return in.Authority.unknown("the mesh's CA").needing(needsRoots)
}

// meshOnly makes a row of whatever hangs on the mesh not applicable where there is none.
func meshOnly(judge func(*Input) Row) func(*Input) Row {
	return func(in *Input) Row {
		if meshEnabled(in).Status == Fail {
			return notApplicable("the mesh has no CA: see " + string(catalog.CAEnabled))
		}
		return judge(in)
	}
}

// Names of providers in configuration.
const (
	providerBuiltIn = "consul"
	providerVault   = "vault"
	providerAWS     = "aws-pca"
)

// caProvider judges where the key of the root is. The configuration tells, and the root's name betrays it to those who may not
// read that.
func caProvider(in *Input) Row {
	provider, found, own := "", "", false
	switch {
	case in.CAConfig.Known:
		config := in.CAConfig.Value
		provider, own = strings.ToLower(config.Provider), config.OwnKey || config.OwnRoot
		found = fmt.Sprintf("the CA's provider is %q", config.Provider)
	case in.Authority.Known:
		root, _, err := activeRoot(in)
		if err != nil && root == nil {
			return notSeen(needsCAConfig, err.Error())
		}
		// "Consul CA Root Cert" in older versions, "Aws-Pca CA Primary Cert".
		name, _, _ := strings.Cut(root.Name, " CA ")
		provider, found = strings.ToLower(name), fmt.Sprintf("the active root is named %q", root.Name)
	default:
		row := in.CAConfig.unknown("the CA's configuration").needing(needsCAConfig)
		return withBootstrap(in, row, "connect.ca_provider")
	}
	switch {
	case provider == providerBuiltIn && own:
		return Row{
			Status: Warn, Found: []string{found + ", with a key or root of the operator's: it lies in the Raft state and the snapshots of " +
				rootServers(in) + ", and besides wherever it was made"},
			Remedy: "destroy or lock away the copy that was made outside of Consul, protect snapshots, or move to an external provider: " +
				"consul connect ca set-config",
		}
	case provider == providerBuiltIn:
		return warned(found + ", the built-in one: the root's key lies in the Raft state and the snapshots of " + rootServers(in))
	case (provider == providerVault || provider == providerAWS) && rootIsBuiltIn(in):
		return warned(found+", an external one, which signs with an intermediate here",
			"the active root is of the built-in provider: its key lies in the Raft state and the snapshots of "+rootServers(in))
	case provider == providerVault, provider == providerAWS:
		return passed(found + ", an external one")
	}
	return notSeen(needsCAConfig, found+", which says nothing of where the key is")
}

// rootIsBuiltIn tells whether the active root betrays itself as one of the built-in provider, whatever provider signs leaves
// in this datacenter: each has its own configuration, and all have the primary's root.
func rootIsBuiltIn(in *Input) bool {
	root, _, _ := activeRoot(in)
	return in.Authority.Known && root != nil && strings.HasPrefix(root.Name, "Consul CA ")
}

// rootServers are the servers that have the root: those of the primary datacenter, which signs what others sign with.
func rootServers(in *Input) string {
	if r := &in.Running.Value; r.PrimaryDatacenter != "" && !strings.EqualFold(r.PrimaryDatacenter, r.Datacenter) {
		return fmt.Sprintf("the servers of the primary datacenter %q", r.PrimaryDatacenter)
	}
	return "the servers"
}

// withBootstrap adds what the files say of the CA's first configuration to a row that is not known.
func withBootstrap(in *Input, row Row, key string) Row {
	if !in.Disk.Known {
		return row
	}
	if _, set := in.Disk.Value.Settings.Lookup(key); !set {
		return row
	}
	if s, ok := onDisk(in, "", key); ok && s.value != "" {
		row.Found = append(row.Found, s.found+", which "+bootstrapOnly)
	}
	return row
}

// activeRoot returns the root that counts for new leaves, and its certificate. The root is nil where none is active.
func activeRoot(in *Input) (*consul.Root, *x509.Certificate, error) {
	for i := range in.Authority.Value.Roots {
		if root := &in.Authority.Value.Roots[i]; root.Active {
			certificate, err := parsePEM(root.PEM)
			return root, certificate, err
		}
	}
	return nil, nil, errors.New("no root of the mesh is active")
}

// parsePEM returns the first certificate of a text. Errors quote nothing of it.
func parsePEM(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is no certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("it cannot be read as a certificate")
	}
	return certificate, nil
}

func caRoot(in *Input) Row {
	if !in.Authority.Known {
		return in.Authority.unknown("the roots of the mesh").needing(needsRoots)
	}
	root, certificate, err := activeRoot(in)
	switch {
	case root == nil:
		return notSeen("a leader that has made the CA", err.Error())
	case err != nil:
		return notSeen("an agent that tells the root as PEM", rootName(root)+": "+err.Error())
	}
	return lasting(in.Now, rootName(root), certificate, certificate.NotAfter.Add(-authorityWarning))
}

// lasting is the row of a certificate that should have been renewed at warn.
func lasting(now time.Time, what string, certificate *x509.Certificate, warn time.Time) Row {
	end := date(certificate.NotAfter)
	switch {
	case now.After(certificate.NotAfter):
		return failed(what + " has expired on " + end)
	case now.Before(certificate.NotBefore):
		return failed(what + " is not valid before " + date(certificate.NotBefore))
	case now.After(warn):
		return warned(what + " expires on " + end)
	}
	return passed(what + " lasts until " + end)
}

// rootName shows a root with as much of its fingerprint as tells it from others.
func rootName(root *consul.Root) string {
	id := root.ID
	if len(id) > 11 {
		id = id[:11]
	}
	return fmt.Sprintf("root %q (%s)", root.Name, id)
}

// caIntermediate judges what signs leaves: the last of the root's intermediates, as Consul takes it. Those with the root's own
// key are the root once more, signed by the one before it for the time of a rotation; Consul lets these expire.
func caIntermediate(in *Input) Row {
	if !in.Authority.Known {
		return in.Authority.unknown("the intermediates of the mesh").needing(needsRoots)
	}
	root, own, err := activeRoot(in)
	if err != nil {
		return notSeen("see "+string(catalog.CARoot), err.Error())
	}
	var signing *x509.Certificate
	for _, text := range root.Intermediates {
		certificate, err := parsePEM(text)
		if err != nil {
			return notSeen("an agent that tells it as PEM", "an intermediate of "+rootName(root)+": "+err.Error())
		}
		if !bytes.Equal(certificate.RawSubjectPublicKeyInfo, own.RawSubjectPublicKeyInfo) {
			signing = certificate
		}
	}
	if signing == nil {
		return notApplicable("leaves are signed by the root itself: see " + string(catalog.CARoot))
	}
	// Consul renews it at half its life, and tries again every hour.
	life := signing.NotAfter.Sub(signing.NotBefore)
	row := lasting(in.Now, "the intermediate certificate "+certificateName(signing), signing,
		signing.NotAfter.Add(-life/4))
	if row.Status == Warn {
		row.Found = append(row.Found,
			"Consul renews it at half its life, which was on "+date(signing.NotBefore.Add(life/2))+", and has not")
	}
	return row
}

// certificateName is a certificate's name, or where it has none, as the intermediate of a secondary datacenter has, what tells
// it from others.
func certificateName(certificate *x509.Certificate) string {
	if name := certificate.Subject.CommonName; name != "" {
		return strconv.Quote(name)
	}
	return fmt.Sprintf("with serial number %s, issued by %q", certificate.SerialNumber, certificate.Issuer.CommonName)
}

func caRotation(in *Input) Row {
	if !in.Authority.Known {
		return in.Authority.unknown("the roots of the mesh").needing(needsRoots)
	}
	active, _, err := activeRoot(in)
	if active == nil {
		return notSeen("a leader that has made the CA", err.Error())
	}
	row := passed(rootName(active) + " is the only one that counts")
	for i := range in.Authority.Value.Roots {
		root := &in.Authority.Value.Roots[i]
		if root.Active {
			continue
		}
		if row.Status == Pass {
			row = warned("a rotation is under way: " + rootName(active) + " signs")
		}
		row.Found = append(row.Found, rootName(root)+" counts until twice the lifetime of a leaf has passed since it was replaced")
	}
	return row
}

func caLeafTTL(in *Input) Row {
	if !in.CAConfig.Known {
		return withBootstrap(in, in.CAConfig.unknown("the CA's configuration").needing(needsCAConfig),
			"connect.ca_config.leaf_cert_ttl")
	}
	text := in.CAConfig.Value.LeafTTL
	if text == "" {
		return passed("leaf_cert_ttl is not set; Consul's default is 72h")
	}
	found := "leaf_cert_ttl = " + literal(text)
	ttl, err := time.ParseDuration(text)
	switch {
	case err != nil || ttl <= 0:
		return notSeen("a duration, as in 72h", found+", which is no duration")
	case ttl > longLeafTTL:
		return failed(found + ": a stolen leaf is good for more than a week")
	case ttl > leafTTL:
		return warned(found)
	}
	return passed(found)
}
