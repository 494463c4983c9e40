// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// TokenHash stands for a secret that is not kept: two are equal where the secrets are. It is made with a key of this
// process, so that it is worth nothing elsewhere. The zero value is no secret's.
type TokenHash [sha256.Size]byte

// String shows nothing of a hash, so that a value that holds one reads the same in every process.
func (h TokenHash) String() string {
	if h == (TokenHash{}) {
		return "(none)"
	}
	return "(hash)"
}

// GoString is String.
func (h TokenHash) GoString() string { return h.String() }

// HashSecret returns the hash of a secret; that of "" is zero. It may be called by several goroutines.
func HashSecret(secret string) TokenHash {
	if secret == "" {
		return TokenHash{}
	}
	mac := hmac.New(sha256.New, processKey())
	mac.Write([]byte(secret)) // never fails
	return TokenHash(mac.Sum(nil))
}

// processKey is made anew by every process.
var processKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key) // ends the program rather than fail
	return key
})

// hidden is what Consul shows in place of a secret that the token may not see.
const hidden = "<hidden>"

// secretText is a secret in an answer, hashed while it is decoded: nothing of it is kept. It is zero where none is shown.
type secretText TokenHash

// UnmarshalJSON takes what is no text for a secret that is not shown: an error would have to tell of it.
func (s *secretText) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil || text == hidden {
		text = ""
	}
	*s = secretText(HashSecret(text))
	return nil
}

// errSecretShape stands for what encoding/json says of an answer that holds secrets, because it quotes.
var errSecretShape = errors.New("it has not the form that Consul gives it (not shown, for it may hold secrets)")

// unquoted leaves out what the decoder quotes of an answer that holds secrets.
func unquoted(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is no JSON, at byte %d (not shown, for it may hold secrets)", syntax.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends in the middle")
	}
	return errSecretShape
}
