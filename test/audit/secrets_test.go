// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"encoding/pem"
)

// secrets are all that must be in no output, and the pieces that would give one away. It may be used concurrently.
type secrets struct {
	mu     sync.Mutex
	pieces map[string]string // what it is a piece of
	count  int
}

// leastPiece is how many characters of a secret count as having told it: fewer are found in anything.
const leastPiece = 8

// addUUID adds a token: the whole, its groups that are long enough, and both forms of its base64.
func (s *secrets) addUUID(what, uuid string) {
	pieces := []string{uuid, strings.ReplaceAll(uuid, "-", "")}
	for _, group := range strings.Split(uuid, "-") {
		if len(group) >= leastPiece {
			pieces = append(pieces, group)
		}
	}
	if len(pieces) == 4 {
		pieces = append(pieces, pieces[3][:leastPiece], pieces[3][len(pieces[3])-leastPiece:])
	}
	s.add(what, append(pieces, encoded([]byte(uuid))...)...)
}

// addKey adds a gossip key in base64, and what it stands for.
func (s *secrets) addKey(key string) {
	pieces := windows(strings.TrimRight(key, "="), 12)
	if raw, err := base64.StdEncoding.DecodeString(key); err == nil {
		pieces = append(pieces, windows(hex.EncodeToString(raw), 16)...)
	}
	s.add("a gossip key", append(pieces, encoded([]byte(key))...)...)
}

// addPEM adds a private key. What all keys of a kind have in common, at their beginning, does not count.
func (s *secrets) addPEM(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("no PEM")
	}
	const common, secret = 7, 32 // of an EC key of 256 bits: RFC 5915
	if len(block.Bytes) < common+secret {
		return errors.New("no private key")
	}
	scalar := block.Bytes[common : common+secret]
	pieces := windows(hex.EncodeToString(scalar), 16)
	whole := base64.StdEncoding.EncodeToString(block.Bytes)
	s.add("a private key", append(pieces, windows(whole[12:52], 16)...)...)
	return nil
}

func (s *secrets) add(what string, pieces ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pieces == nil {
		s.pieces = map[string]string{}
	}
	s.count++
	for _, piece := range pieces {
		if len(piece) >= leastPiece {
			s.pieces[piece] = what
		}
	}
}

// encoded is text as base64 has it, without its padding, in both alphabets.
func encoded(text []byte) []string {
	return []string{base64.RawStdEncoding.EncodeToString(text), base64.RawURLEncoding.EncodeToString(text)}
}

// windows are all parts of text that are so long.
func windows(text string, length int) (all []string) {
	for i := 0; i+length <= len(text); i++ {
		all = append(all, text[i:i+length])
	}
	return all
}

// in says which secrets text tells, without telling them.
func (s *secrets) in(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return errors.New("no secret is known: nothing can be found")
	}
	var errs []error
	for piece, what := range s.pieces {
		if at := strings.Index(text, piece); at >= 0 {
			errs = append(errs, fmt.Errorf("at byte %d stand %d characters of %s", at, len(piece), what))
		}
	}
	return errors.Join(errs...)
}

// TestSecretsAreFound: the search that all outputs go through finds what it has to.
func TestSecretsAreFound(t *testing.T) {
	k := kitFor(t)
	if k.secrets.count < 9 { // the tokens of the kit, the gossip key, and the private keys
		t.Errorf("only %d secrets are known", k.secrets.count)
	}
	planted := &secrets{}
	if err := planted.in("nothing"); err == nil {
		t.Error("a search for nothing found nothing, and said so to nobody")
	}
	const uuid, key = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "cG93cyBnb3NzaXAga2V5IG9mIDMyIGJ5dGVzIGxvbmc="
	planted.addUUID("a token", uuid)
	planted.addKey(key)
	for _, text := range []string{
		"token " + uuid + " is", "0a1b2c3d…", "…a4b5c6d7e8f9", "c6d7e8f9", strings.ReplaceAll(uuid, "-", ""),
		base64.StdEncoding.EncodeToString([]byte(uuid)), key, "encrypt = " + key[5:25], base64.StdEncoding.EncodeToString([]byte(key)),
	} {
		if planted.in("some "+text+" more") == nil {
			t.Errorf("%q was not found", text)
		}
	}
	if err := planted.in("4e5f-6071-8293 and cG93cyB"); err != nil {
		t.Errorf("too little was taken for a secret: %v", err)
	}
}
