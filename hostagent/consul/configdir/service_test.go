// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"math"
	"testing"
)

func TestOpenPort(t *testing.T) {
	for _, tt := range []struct {
		held any
		want int
	}{
		{int64(80), 80}, {int64(math.MaxInt64), 0}, {80.9, 80}, {1e300, 0}, {"80", 80}, {"0x50", 80}, {"8e3", 0}, {"", 0}, {true, 0}, {nil, 0},
	} {
		if got := openPort(tt.held); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.held, got, tt.want)
		}
	}
}

func TestTLSVersion(t *testing.T) {
	for old, want := range map[string]string{
		"": "TLS_AUTO", "tls10": "TLSv1_0", "tls11": "TLSv1_1", "tls12": "TLSv1_2", "tls13": "TLSv1_3", "TLSv1_2": "TLSv1_2", "x": "x",
	} {
		if got := tlsVersion(old); got != want {
			t.Errorf("%q: got %v, want %q", old, got, want)
		}
	}
}
