// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
)

// secretKey returns the key of all hashes of secrets, which lives as long as the process.
var secretKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key) //nolint:errcheck // never fails since Go 1.24: the program ends instead
	return key
})

// HashSecret returns the hash of a secret; that of "" is zero.
func HashSecret(secret string) TokenHash {
	if secret == "" {
		return TokenHash{}
	}
	mac := hmac.New(sha256.New, secretKey())
	mac.Write([]byte(secret))
	return TokenHash(mac.Sum(nil))
}
