// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
	"github.com/hostagent/hostagent/hostagent/consul/datadir"
)

const (
	sidecarNameSuffix = "-sidecar-proxy" // that Consul gives to a sidecar's id, and to its name where it has none

	tokenInitial   = "acl.tokens.initial_management"
	tokenDefault   = "acl.tokens.default"
	tokenFromFiles = "acl.tokens.config_file_service_registration"
	tokenAnonymous = "anonymous" // the secret of the anonymous token, by which whoever likes may call himself
)

// agentTokens are the agent's own tokens, by their keys in configuration files.
func agentTokens() []string {
	return []string{
		tokenInitial, "acl.tokens.agent_recovery", "acl.tokens.replication", "acl.tokens.agent", "acl.tokens.dns",
		tokenDefault, tokenFromFiles,
	}
}

// readInstanceTokens reads with which tokens registrations were made: those that came through the API out of the agent's
// data directory, those of definitions out of its files. Only root may call it, and never for the service. Without the data
// directory nothing is known: a registration through the API stands over a definition, and the agent keeps its own tokens there.
//
// Where both hold an id, the data directory counts: an agent that loads its files throws away what it kept for their ids,
// so what is there was registered since (seen with Consul 1.21).
func readInstanceTokens(dataDir string, disk Seen[*configdir.Config]) Seen[[]InstanceToken] {
	own := map[string]consul.TokenHash{tokenAnonymous: consul.HashSecret(tokenAnonymous)}
	byID := map[string]InstanceToken{}
	var problems []InstanceToken
	if disk.Known {
		for _, key := range agentTokens() {
			own[key] = disk.Value.Settings.Hash(key)
		}
		for _, token := range definedTokens(disk.Value.Services) {
			byID[token.ID] = token
		}
	}
	kept, err := datadir.Read(dataDir)
	if errors.Is(err, fs.ErrPermission) {
		return Unseen[[]InstanceToken](err.Error(), asAuditor)
	}
	if err != nil {
		kept = &datadir.Data{Problems: []string{err.Error()}}
	}
	for _, problem := range kept.Problems {
		problems = append(problems, InstanceToken{Problem: problem})
	}
	maps.Copy(own, kept.Tokens)
	for _, s := range kept.Services {
		if s.Problem != "" {
			problems = append(problems, InstanceToken{Where: s.File, Problem: s.Problem})
			continue
		}
		byID[s.ID] = InstanceToken{
			ID: s.ID, Name: s.Name, Sidecar: s.Kind == consul.KindConnectProxy,
			DestinationID: s.DestinationID, DestinationName: s.DestinationName, Hash: s.TokenHash, Where: s.File,
		}
	}
	return Known(append(problems, instanceTokens(byID, own)...))
}

// instanceTokens are tokens in order, each with what else it is.
func instanceTokens(byID map[string]InstanceToken, own map[string]consul.TokenHash) []InstanceToken {
	var tokens []InstanceToken
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		token := byID[id]
		for _, key := range slices.Sorted(maps.Keys(own)) {
			if token.Hash != (consul.TokenHash{}) && own[key] == token.Hash {
				token.SameAs = append(token.SameAs, key)
			}
		}
		tokens = append(tokens, token)
	}
	return tokens
}

// definedTokens are those of definitions in files, of which the last of an id counts.
func definedTokens(services []configdir.Service) []InstanceToken {
	var tokens []InstanceToken
	for _, s := range services {
		token := definedToken(s)
		tokens = append(tokens, token)
		if s.Sidecar == nil {
			continue
		}
		sidecar := definedToken(*s.Sidecar)
		sidecar.Sidecar = true // which is its kind unless it says otherwise
		sidecar.ID = token.ID + sidecarNameSuffix
		sidecar.Name = cmp.Or(sidecar.Name, token.Name+sidecarNameSuffix)
		sidecar.DestinationID = cmp.Or(sidecar.DestinationID, token.ID)
		sidecar.DestinationName = cmp.Or(sidecar.DestinationName, token.Name)
		sidecar.Where = fmt.Sprintf("%s:%d", s.File, cmp.Or(s.Sidecar.Line, s.Line))
		tokens = append(tokens, sidecar)
	}
	return tokens
}

func definedToken(s configdir.Service) InstanceToken {
	token := InstanceToken{
		ID: cmp.Or(s.ID, s.Name), Name: s.Name, Sidecar: s.Kind == consul.KindConnectProxy,
		Hash: s.TokenHash, Where: fmt.Sprintf("%s:%d", s.File, s.Line),
	}
	if s.Proxy != nil {
		token.DestinationID, token.DestinationName = s.Proxy.DestinationID, s.Proxy.DestinationName
	}
	return token
}
