// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"strings"
	"testing"
)

const (
	testID  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherID = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

func TestParseCgroup(t *testing.T) {
	for _, test := range []struct{ path, unit, container string }{
		{"", "", ""},
		{"/", "", ""},
		{"/system.slice/nginx.service", "nginx.service", ""},
		{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", ""},
		{`/system.slice/my\x2dapp.service`, `my\x2dapp.service`, ""},
		{"/init.scope", "init.scope", ""},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "web.service", ""},
		{"/system.slice", "", ""},
		{"/system.slice/supervisor.service/worker", "", ""},
		{"/docker/" + testID, "", "0123456789ab"},
		{"/docker/" + testID + "/docker/" + otherID, "", "fedcba987654"},
		{"/system.slice/docker-" + testID + ".scope", "docker-" + testID + ".scope", "0123456789ab"},
		{"/system.slice/docker-" + testID + ".scope/system.slice/nginx.service", "nginx.service", "0123456789ab"},
		{"/machine.slice/libpod-" + testID + ".scope/container", "", "0123456789ab"},
		{"/machine.slice/libpod-conmon-" + testID + ".scope", "libpod-conmon-" + testID + ".scope", ""},
		{"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-" + testID + ".scope", "cri-containerd-" + testID + ".scope", "0123456789ab"},
		{"/kubepods.slice/crio-" + testID + ".scope", "crio-" + testID + ".scope", "0123456789ab"},
		{"/kubepods/burstable/pod6c1f0a9e-1111-2222-3333-444444444444/" + testID, "", "0123456789ab"},
		{"/nomad.slice/share.slice/8d7cbb5e-1a2b-3c4d-5e6f-7a8b9c0d1e2f.web.scope", "8d7cbb5e-1a2b-3c4d-5e6f-7a8b9c0d1e2f.web.scope", ""},
		{"/nomad.slice/docker-" + testID + ".scope", "docker-" + testID + ".scope", "0123456789ab"},
		{"/docker/" + testID[1:], "", ""},
		{"/docker/" + strings.ToUpper(testID), "", ""},
		{"/x-" + testID + ".scope", "x-" + testID + ".scope", ""},
		{"/user.slice/evil\n.service", "", ""},
		{"/user.slice/\x1b[31m.service", "", ""},
		{"/user.slice/.service", "", ""},
		{"/system.slice/nginx.service (deleted)", "", ""},
	} {
		if unit, container := parseCgroup(test.path); unit != test.unit || container != test.container {
			t.Errorf("%q: unit %q container %q, want %q and %q", test.path, unit, container, test.unit, test.container)
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("/system.slice/docker-" + testID + ".scope")
	f.Add("/docker/" + testID + "/a.service")
	f.Add("/user.slice/a\n.service")
	f.Fuzz(func(t *testing.T, path string) {
		unit, container := parseCgroup(path)
		if unit != "" && (!strings.HasSuffix(path, unit) && !strings.HasSuffix(strings.TrimRight(path, "/"), unit) || len(unit) > 255) {
			t.Errorf("%q: unit %q", path, unit)
		}
		for _, r := range unit {
			if r <= ' ' || r >= 0x7f || r == '/' {
				t.Errorf("%q: unit %q", path, unit)
			}
		}
		if container != "" && (len(container) != shortID || !strings.Contains(path, container) || strings.Trim(container, "0123456789abcdef") != "") {
			t.Errorf("%q: container %q", path, container)
		}
	})
}

func TestParseProcCgroup(t *testing.T) {
	for _, test := range []struct{ name, text, unit, container string }{
		{"version 2", "0::/system.slice/a.service\n", "a.service", ""},
		{"version 1", "9:name=systemd:/system.slice/a.service\n8:pids:/b.service\n", "a.service", ""},
		{"other hierarchies", "8:pids:/b.service\n9:name=systemd:/system.slice/a.service\n", "a.service", ""},
		{"hybrid, container in version 1", "9:name=systemd:/docker/" + testID + "\n8:pids:/b.service\n0::/system.slice/c.service\n", "c.service", "0123456789ab"},
		{"version 2 before version 1", "9:name=systemd:/a.service\n0::/b.service\n", "b.service", ""},
		{"colons in the path", "0::/a.slice/x:y.service\n", "x:y.service", ""},
		{"nothing", "", "", ""},
		{"malformed", "0:\n\n:::\nx", "", ""},
	} {
		if unit, container := parseProcCgroup(test.text); unit != test.unit || container != test.container {
			t.Errorf("%s: unit %q container %q, want %q and %q", test.name, unit, container, test.unit, test.container)
		}
	}
}

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
