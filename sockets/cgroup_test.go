// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"testing"
)

func TestCgroupMount(t *testing.T) {
	const v1 = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd\n"
	for _, test := range []struct{ name, mountinfo, want string }{
		{"unified", "25 23 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		{"hybrid", v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		{"version 1 only", v1, ""},
		{"part of the tree", "25 23 0:21 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", ""},
		{"blank in the path", `25 23 0:21 / /mnt/a\040b\134c rw - cgroup2 none rw` + "\n", `/mnt/a b\c`},
		{"malformed", "25 - cgroup2 x\n25 23 0:21 / - cgroup2 x\n - \n\n", ""},
	} {
		if got := cgroupMount(test.mountinfo); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
