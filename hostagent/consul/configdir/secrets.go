// SPDX-License-Identifier: MPL-2.0

package configdir

import "strings"

// Secret says what one file holds that others must not read; the secrets themselves are not in it.
type Secret struct {
	Tokens    bool // ACL tokens, and what else lets its holder in: of services, checks, providers
	GossipKey bool
	Keys      bool // private keys, as text
}

// secretsOf tells which secrets stand in what was decoded of a file, whether or not a later file says otherwise.
func secretsOf(root *object) Secret {
	var s Secret
	if root == nil {
		return s
	}
	s.GossipKey = root.text("encrypt") != ""
	for key, v := range root.keys {
		s.addFrom(key, strings.EqualFold(key, "cloud"), v.held)
	}
	return s
}

// addFrom looks into held, which stands under key. Where all tells that each text below is a secret, the key does not count.
func (s *Secret) addFrom(key string, all bool, held any) {
	key = strings.ToLower(key)
	switch held := held.(type) {
	case string:
		s.Tokens = s.Tokens || held != "" && (all || isSecretKey(key))
		s.Keys = s.Keys || held != "" && strings.ReplaceAll(key, "_", "") == "privatekey"
	case []value:
		for _, item := range held {
			s.addFrom(key, all, item.held)
		}
	case *object:
		for inner, v := range held.keys {
			s.addFrom(inner, all || key == "tokens", v.held)
		}
	}
}

// isSecretKey knows "token" of a service, "intro_token", "circonus_api_token", "X-Consul-Token" and "Authorization" of a
// check's header, and what Vault's provider takes; not "token_ttl" nor "intro_token_file".
func isSecretKey(key string) bool {
	key = strings.ReplaceAll(strings.ReplaceAll(key, "_", ""), "-", "")
	return strings.HasSuffix(key, "token") || strings.HasSuffix(key, "secret") || key == "secretid" || key == "authorization"
}
