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

// everything is a measurement of each line: 1 in its unit, and whatever more says.
func everything(more measurements) measurements {
	all := measurements{}
	for _, section := range figures() {
		for _, f := range section.figures {
			all[f.benchmark+" "+f.unit] = []float64{1}
			for _, o := range f.others {
				all[o.benchmark+" "+o.unit] = []float64{1}
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
		"Apply/1/hostagent-nft ns/op": {68_500}, "Apply/1/ipset-restore ns/op": {1_530_000}, "Idle/nft cpu-%": {0.2}, "Idle/nft rss-MB": {24.9},
		"Repair/nft/flush-mangle p99-ms": {62.17}, "Packet/no-rules ns/op": {1600}, "Packet/hostagent-nftables ns/op": {1920},
		"Replace/ports/nft wrong-drops": {0}, "Replace/ports/nft packets": {286_841}, "Replace/ports/nftables wrong-drops": {1},
	}))
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{}
	want := []string{
		"1 port, iptables + ipset 68.5 µs under 200 µs met",
		"peer: ipset restore 1.53 ms 22.3 times",
		"iptables-nft -t mangle -F, p99 62.2 ms under 100 ms met",
		"no rules 1.60 µs",
		"nftables 1.92 µs 1.20 times",
		"255 of 256 ports, 10,000 times, iptables + ipset 0 none met",
		"of SYNs sent meanwhile 286841",
		"255 of 256 ports, 10,000 times, nftables 1 none MISSED",
		"CPU of hostagent and its children, nft 0.20 % under 0.20 % MISSED",
		"memory of hostagent (RSS), nft 24.9 MB under 25.0 MB met",
	}
	for _, line := range want {
		wanted[line] = true
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		if line = strings.Join(strings.Fields(line), " "); wanted[line] {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summary (-want +got)\n%s\n%s", diff, b.String())
	}
}

func TestSummaryWantsEverything(t *testing.T) {
	all := everything(nil)
	delete(all, "Apply/1/nft ns/op")
	delete(all, "Pass/steady ns/op")
	err := summarize(&strings.Builder{}, all)
	if want := "not measured: nothing differs from the pass before; peer: nft -f, elements of a set"; fmt.Sprint(err) != want {
		t.Errorf("with two figures missing the error is %v, want %s", err, want)
	}
}

func TestUnits(t *testing.T) {
	for _, test := range []struct {
		value float64
		unit  string
		want  string
	}{
		{15.4, perOp, "15.4 ns"}, {999.6, perOp, "1000 ns"}, {1e3, perOp, "1.00 µs"}, {1_530_000, perOp, "1.53 ms"}, {118e6, perOp, "118 ms"}, {20_475e6, perOp, "20.5 s"},
		{0.2997, percent, "0.30 %"}, {17.52, "rss-MB", "17.5 MB"}, {62.17, "p99-ms", "62.2 ms"}, {0, drops, "0"}, {286_841, "packets", "286841"},
	} {
		if got := text(test.value, test.unit); got != test.want {
			t.Errorf("%g %s reads %q, want %q", test.value, test.unit, got, test.want)
		}
	}
}
