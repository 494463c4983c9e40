// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTakesTheMedian(t *testing.T) {
	measured, err := parse(strings.NewReader(`goos: linux
BenchmarkList2000/peer=ss_-Hltun-2         	      43	   7418028 ns/op
BenchmarkList2000/List-16         	     163	   3000 ns/op	  909966 B/op	     173 allocs/op
BenchmarkList2000/List-16         	     163	   1000 ns/op	  909966 B/op	     173 allocs/op
BenchmarkList2000/List-16         	     163	   2000 ns/op	  909966 B/op	     173 allocs/op
BenchmarkIdle/nft 	       1	         1.066 consul-%	         0.2997 cpu-%
BenchmarkBroken
PASS
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		benchmark, unit string
		value           float64
	}{
		{"List2000/List", "ns/op", 2000},
		{"List2000/peer=ss_-Hltun", "ns/op", 7418028},
		{"Idle/nft", "cpu-%", 0.2997},
	} {
		if got, ok := measured.median(want.benchmark, want.unit); !ok || got != want.value {
			t.Errorf("%s is %g, %t, want %g %s", want.benchmark, got, ok, want.value, want.unit)
		}
	}
	if _, ok := measured.median("Broken", "ns/op"); ok {
		t.Error("a benchmark without a result has one")
	}
	if _, err := parse(strings.NewReader("BenchmarkX 1 fast ns/op\n")); err == nil {
		t.Error("a result that is no number was taken")
	}
}

// everything is a measurement of each figure and peer: 1 in its unit, and whatever more says.
func everything(more measurements) measurements {
	all := measurements{}
	for _, section := range figures() {
		for _, f := range section.figures {
			all[f.benchmark+" "+f.unit] = []float64{1}
			for _, p := range f.peers {
				all[p.benchmark+" "+p.unit] = []float64{1}
			}
		}
	}
	for key, values := range more {
		all[key] = values
	}
	return all
}

func TestSummary(t *testing.T) {
	var b strings.Builder
	err := summarize(&b, everything(measurements{
		"ApplyOne/hostagent ns/op": {68_500}, "ApplyOne/exec-ipset ns/op": {1_530_000}, "Idle/nft cpu-%": {0.2}, "Idle/nft rss-MB": {24.9},
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		for _, start := range []string{"  Apply, one port", "    peer: exec ipset ", "  CPU of hostagent and its children, nft", "  memory of hostagent (RSS), nft"} {
			if strings.HasPrefix(line, start) && !strings.Contains(line, "restore") {
				got = append(got, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	want := []string{
		"Apply, one port more or less 68.5 µs under 200 µs met",
		"peer: exec ipset 1.53 ms 22.3 times",
		"CPU of hostagent and its children, nft 0.20 % under 0.20 % MISSED",
		"memory of hostagent (RSS), nft 24.9 MB under 25.0 MB met",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summary (-want +got)\n%s\n%s", diff, b.String())
	}
}

func TestSummaryWantsEverything(t *testing.T) {
	all := everything(nil)
	delete(all, "ApplyOne/exec-ipset ns/op")
	delete(all, "Pass/steady ns/op")
	err := summarize(&strings.Builder{}, all)
	if want := "not measured: nothing differs from the pass before; exec ipset"; fmt.Sprint(err) != want {
		t.Errorf("with two figures missing the error is %v, want %s", err, want)
	}
}

func TestUnits(t *testing.T) {
	for _, test := range []struct {
		value float64
		unit  string
		want  string
	}{
		{15.4, perOp, "15.4 ns"}, {999.6, perOp, "1000 ns"}, {1e3, perOp, "1.00 µs"}, {1_530_000, perOp, "1.53 ms"}, {118e6, perOp, "118 ms"},
		{0.2997, percent, "0.30 %"}, {17.52, "rss-MB", "17.5 MB"},
	} {
		if got := text(test.value, test.unit); got != test.want {
			t.Errorf("%g %s reads %q, want %q", test.value, test.unit, got, test.want)
		}
	}
}
