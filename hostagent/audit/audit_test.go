// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func TestFew(t *testing.T) {
	for want, texts := range map[string][]string{
		"": nil, "a": {"a"}, "a, b": {"a", "b"}, "a, b and 1 more": {"a", "b", "c"}, "a, b and 2 more": {"a", "b", "c", "d"},
	} {
		if got := few(texts, 2); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestARowIsBoundedAndSafe(t *testing.T) {
	item := catalog.Item{Remedy: "the catalog's"}
	row := Row{Status: Fail, Needs: "a\nb"}
	for i := range mostFound + 3 {
		row.Found = append(row.Found, fmt.Sprintf("%d\x1b", i))
	}
	got := row.finished(item)
	if len(got.Found) != mostFound+1 || got.Found[mostFound] != "and 3 more of this kind" || strings.ContainsAny(strings.Join(got.Found, "")+got.Needs, "\x1b\n") {
		t.Errorf("found %q, needs %q", got.Found, got.Needs)
	}
	long := Row{Found: []string{strings.Repeat("é", maxFound+1)}}.finished(item).Found[0]
	if n := len([]rune(long)); n > maxFound+1 { // with the mark of what was cut
		t.Errorf("a sentence has %d runes", n)
	}
	remedies := map[Status]string{}
	for _, status := range Statuses() {
		remedies[status] = Row{Status: status}.finished(item).Remedy + Row{Status: status, Remedy: ", its own"}.finished(item).Remedy
	}
	want := map[Status]string{
		Fail: "the catalog's, its own", Warn: "the catalog's, its own", Unknown: "", Info: "", NotApplicable: "", Pass: "",
	}
	if diff := cmp.Diff(want, remedies); diff != "" {
		t.Errorf("remedies (-want +got)\n%s", diff)
	}
}

func TestEachItemHasOneJudge(t *testing.T) {
	judged := map[catalog.ID]int{}
	for _, j := range judges() {
		judged[j.id]++
	}
	for _, item := range catalog.Items() {
		if judged[item.ID] != 1 {
			t.Errorf("%s has %d judges", item.ID, judged[item.ID])
		}
		delete(judged, item.ID)
	}
	for id := range judged {
		t.Errorf("%s is judged, and no item of the checklist", id)
	}
}
