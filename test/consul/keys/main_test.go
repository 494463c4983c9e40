// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"os"
	"testing"
)

// TestKeysAreCurrent fails where go.mod names another Consul than the one whose keys hostagent knows.
func TestKeysAreCurrent(t *testing.T) {
	want, err := os.ReadFile("../../../hostagent/consul/configdir/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Error("keys.txt is not what this Consul has; run: go run ./keys > ../../hostagent/consul/configdir/keys.txt")
	}
}
