// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"testing"
	"time"
)

func TestFight(t *testing.T) {
	// Seconds at which drift is repaired, and what then holds at a moment: whether there is a fight, and the wait.
	tests := []struct {
		name    string
		repairs []float64
		at      float64
		on      bool
		wait    float64
	}{
		{"nothing happened", nil, 0, false, 0},
		{"five within a minute", []float64{0, 1, 2, 3, 4}, 4, false, 0},
		{"six within a minute", []float64{0, 1, 2, 3, 4, 5}, 5, true, 1},
		{"many within a second", []float64{7, 7, 7.25, 7.5, 7.5, 7.75, 7.75, 7.75}, 7.75, false, 0},
		{"six bursts", []float64{0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5}, 5.5, true, 0.5},
		{"six, the first a minute ago", []float64{0, 12, 24, 36, 48, 60}, 60, false, 0},
		{"six, the first nearly a minute ago", []float64{0, 12, 24, 36, 48, 59.9}, 59.9, true, 1},
		{"in the pause", []float64{0, 1, 2, 3, 4, 5}, 5.25, true, 0.75},
		{"the pause ends", []float64{0, 1, 2, 3, 4, 5}, 6, true, 0},
		{"the second pause", []float64{0, 1, 2, 3, 4, 5, 6}, 6, true, 2},
		{"the fourth pause", []float64{0, 1, 2, 3, 4, 5, 6, 8, 12}, 12, true, 8},
		{"the fifth pause, and the longest", []float64{0, 1, 2, 3, 4, 5, 6, 8, 12, 20}, 20, true, 15},
		{"quiet for nearly a minute", []float64{0, 1, 2, 3, 4, 5}, 64.9, true, 0},
		{"quiet for a minute", []float64{0, 1, 2, 3, 4, 5}, 65, false, 0},
		{"it goes on, though repairs are rare now", []float64{0, 1, 2, 3, 4, 5, 20, 35, 50, 65, 80, 95, 110}, 111, true, 14},
		{"a repair after a quiet minute begins anew", []float64{0, 1, 2, 3, 4, 5, 70}, 70, false, 0},
		{"and again a fight", []float64{0, 1, 2, 3, 4, 5, 70, 71, 72, 73, 74, 75}, 75, true, 1},
	}
	began := time.Now()
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f fight
			for _, seconds := range tt.repairs {
				f.repaired(at(seconds))
			}
			if got := f.fought(at(tt.at)); got != tt.on {
				t.Errorf("fight: %t, want %t", got, tt.on)
			}
			if got := f.wait(at(tt.at)); got != time.Duration(tt.wait*float64(time.Second)) {
				t.Errorf("wait %v, want %v s", got, tt.wait)
			}
		})
	}
}
