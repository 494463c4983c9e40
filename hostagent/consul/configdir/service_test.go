// SPDX-License-Identifier: MPL-2.0

package configdir

import "testing"

func TestTLSVersion(t *testing.T) {
	for old, want := range map[string]string{
		"": "TLS_AUTO", "tls10": "TLSv1_0", "tls11": "TLSv1_1", "tls12": "TLSv1_2", "tls13": "TLSv1_3", "TLSv1_2": "TLSv1_2", "x": "x",
	} {
		if got := tlsVersion(old); got != want {
			t.Errorf("%q: got %v, want %q", old, got, want)
		}
	}
}
