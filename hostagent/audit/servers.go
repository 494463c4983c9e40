// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/probe"
)

const (
	mostServers    = 50 // that are asked
	serversAtATime = 8
)

// serversShow asks servers for their certificates, unless the agent does without TLS: then its row is another's to tell, and
// servers without a certificate would note an error in their logs.
func serversShow(ctx context.Context, in *Input, servers Seen[[]consul.Server]) Seen[[]ServerCertificate] {
	switch r := rpcOf(in); {
	case !servers.Known:
		return Unseen[[]ServerCertificate](servers.Reason, servers.Needs)
	case r.off(), r.server && r.certFile.known && r.certFile.value == "":
		return Unseen[[]ServerCertificate]("TLS is not configured for RPC here, so that no server was asked", "TLS for RPC")
	}
	return askServers(ctx, servers.Value)
}

// askServers asks servers for the certificates that they show on their RPC ports, several at a time, each for at most 3 s.
// Answers are sorted by the servers' names. Where TLS is off on a server it notes in its log that it has no certificate to show.
func askServers(ctx context.Context, servers []consul.Server) Seen[[]ServerCertificate] {
	servers = slices.Clone(servers)
	slices.SortFunc(servers, func(a, b consul.Server) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	servers = slices.Compact(servers)
	more := len(servers) - mostServers
	servers = servers[:min(len(servers), mostServers)]
	shown := make([]ServerCertificate, len(servers))
	var wait sync.WaitGroup
	turns := make(chan struct{}, serversAtATime)
	for i, server := range servers {
		turns <- struct{}{}
		wait.Go(func() {
			defer func() { <-turns }()
			shown[i] = askServer(ctx, server)
		})
	}
	wait.Wait()
	if more > 0 {
		shown = append(shown, ServerCertificate{Server: fmt.Sprintf("%d more", more),
			Problem: fmt.Sprintf("no more than %d are asked", mostServers)})
	}
	return Known(shown)
}

// askServer asks one server. Its address is taken as gossip tells it, an IP address: no name is looked up.
func askServer(ctx context.Context, server consul.Server) ServerCertificate {
	shown := ServerCertificate{Server: server.Name}
	address, err := netip.ParseAddrPort(server.Address)
	if err != nil {
		shown.Problem = "its address is no IP address with a port"
		return shown
	}
	certificate, result := probe.AskServer(ctx, address)
	switch {
	case certificate != nil:
		shown.Fingerprint, shown.Key = fingerprint(certificate.Raw), fingerprint(certificate.RawSubjectPublicKeyInfo)
	case result.Outcome == probe.Plain:
		shown.Plain, shown.Problem = true, "it answers without TLS"
	case result.Outcome == probe.Refused:
		shown.Plain, shown.Problem = true, result.Detail // what Consul does without a certificate
	default:
		shown.Problem = result.Detail
	}
	return shown
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
