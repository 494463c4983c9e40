// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConsulUsers(t *testing.T) {
	var usual []uint32
	if u, err := user.Lookup("consul"); err == nil {
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		usual = []uint32{uint32(uid)}
	}
	for _, test := range []struct {
		name string
		want []uint32
		err  string
	}{
		{"", usual, ""},
		{"root", []uint32{0}, ""},
		{"0", []uint32{0}, ""},
		{"1000", []uint32{1000}, ""},
		{"no-such-user", nil, `cannot use consul { user = "no-such-user" } (--consul-user): /etc/passwd has no such user; write the number`},
		{"4294967295", nil, "is no number of a user"},
		{"4294967296", nil, "is no number of a user"},
		{"-1", nil, "has no such user"},
	} {
		users, err := consulUsers(test.name)
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: %v, want %q", test.name, err, test.err)
			continue
		}
		if err != nil {
			continue
		}
		if diff := cmp.Diff(test.want, users()); diff != "" {
			t.Errorf("%q (-want +got)\n%s", test.name, diff)
		}
	}
}
