// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"slices"
	"strings"
	"testing"
)

const (
	testID     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherID    = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	allocation = "8d7cbb5e-1a2b-3c4d-5e6f-7a8b9c0d1e2f"
)

func TestParseCgroup(t *testing.T) {
	const short = "0123456789ab"
	none := place{}
	unit := func(name string) place { return place{unit: name} }
	for _, test := range []struct {
		path string
		want place
	}{
		{"", none},
		{"/", none},
		{"/system.slice/nginx.service", unit("nginx.service")},
		{"/system.slice/system-getty.slice/getty@tty1.service", unit("getty@tty1.service")},
		{`/system.slice/my\x2dapp.service`, unit(`my\x2dapp.service`)},
		{"/init.scope", unit("init.scope")},
		{"/user.slice/user-1000.slice/session-3.scope", unit("session-3.scope")},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", unit("web.service")},
		{"/system.slice", none},
		{"/system.slice/supervisor.service/worker", none},

		{"/docker/" + testID, place{"", short, "docker"}},
		{"/docker/" + testID + "/docker/" + otherID, place{"", "fedcba987654", "docker"}},
		{"/docker/" + testID + "/libpod_parent/libpod-" + otherID, place{"", "fedcba987654", "podman"}},
		{"/system.slice/docker-" + testID + ".scope", place{"docker-" + testID + ".scope", short, "docker"}},
		{"/system.slice/docker-" + testID + ".scope/system.slice/nginx.service", place{"nginx.service", short, "docker"}},
		{"/system.slice/docker.service", unit("docker.service")},

		{"/machine.slice/libpod-" + testID + ".scope", place{"libpod-" + testID + ".scope", short, "podman"}},
		{"/machine.slice/libpod-" + testID + ".scope/container", place{"", short, "podman"}},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + testID + ".scope/container", place{"", short, "podman"}},
		{"/system.slice/web.service/libpod-payload-" + testID, place{"", short, "podman"}},
		{"/libpod_parent/libpod-" + testID, place{"", short, "podman"}},
		{"/machine.slice/libpod-conmon-" + testID + ".scope", unit("libpod-conmon-" + testID + ".scope")},
		{"/libpod_parent/conmon", none},

		{"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-" + testID + ".scope", place{"cri-containerd-" + testID + ".scope", short, "kubernetes"}},
		{"/kubepods.slice/kubepods-pod1_2.slice/crio-" + testID + ".scope", place{"crio-" + testID + ".scope", short, "kubernetes"}},
		{"/kubepods.slice/kubepods-pod1_2.slice/crio-conmon-" + testID + ".scope", unit("crio-conmon-" + testID + ".scope")},
		{"/kubepods/burstable/pod6c1f0a9e-1111-2222-3333-444444444444/" + testID, place{"", short, "kubernetes"}},
		{"/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:" + testID, place{"", short, "kubernetes"}},
		{"/system.slice/crio-" + testID + ".scope", place{"crio-" + testID + ".scope", short, "cri-o"}},
		{"/system.slice/nerdctl-" + testID + ".scope", place{"nerdctl-" + testID + ".scope", short, "containerd"}},
		{"/system.slice/cri-containerd-" + testID + ".scope", place{"cri-containerd-" + testID + ".scope", short, "containerd"}},
		{"/default/" + testID, place{"", short, ""}},

		{"/nomad.slice/share.slice/" + allocation + ".web.scope", place{allocation + ".web.scope", "8d7cbb5e", "nomad"}},
		{"/nomad.slice/reserve.slice/" + allocation + ".a b.scope", place{"", "8d7cbb5e", "nomad"}},
		{"/nomad.slice/" + allocation + ".web.scope", place{allocation + ".web.scope", "8d7cbb5e", "nomad"}},
		{"/nomad/" + allocation, place{"", "8d7cbb5e", "nomad"}},
		{"/nomad/share/" + allocation + ".web", place{"", "8d7cbb5e", "nomad"}},
		{"/nomad.slice/share.slice/" + testID, place{"", short, "nomad"}},
		{"/nomad.slice/share.slice/docker-" + testID + ".scope", place{"docker-" + testID + ".scope", short, "docker"}},
		{"/user.slice/" + allocation + ".web.scope", unit(allocation + ".web.scope")},
		{"/system.slice/nomad.service", unit("nomad.service")},

		{"/machine.slice/machine-web.scope", unit("machine-web.scope")},
		{"/machine.slice/machine-web.scope/payload/system.slice/nginx.service", unit("machine-web.scope")},
		{"/machine.slice/machine-web.scope/payload/init.scope", unit("machine-web.scope")},
		{"/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", unit("systemd-nspawn@web.service")},
		{`/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt/emulator`, unit(`machine-qemu\x2d1\x2ddb.scope`)},
		{"/machine.slice/machine-web.scope/payload/machine.slice/machine-inner.scope", unit("machine-web.scope")},
		{"/machine.slice/machine-\n.scope/payload/a.service", unit("a.service")},

		{"/docker/" + testID[1:], none},
		{"/docker/" + strings.ToUpper(testID), none},
		{"/kubepods-burstable-pod1.slice:evil:" + testID, place{}},
		{"/docker" + testID, none},
		{"/" + strings.Repeat("a", 241) + ".service", none},
		{"/nomad/" + allocation[1:], none},
		{"/x-" + testID + ".scope", unit("x-" + testID + ".scope")},
		{"/user.slice/evil\n.service", none},
		{"/user.slice/\x1b[31m.service", none},
		{"/user.slice/.service", none},
		{"/system.slice/nginx.service (deleted)", none},
	} {
		if got := parseCgroup(test.path); got != test.want {
			t.Errorf("%q: got %+v, want %+v", test.path, got, test.want)
		}
	}
}

// FuzzParseCgroup: whoever may make cgroups chooses their names, and what comes out is shown to people.
func FuzzParseCgroup(f *testing.F) {
	f.Add("/system.slice/docker-" + testID + ".scope")
	f.Add("/docker/" + testID + "/a.service")
	f.Add("/user.slice/a\n.service")
	f.Add("/nomad.slice/share.slice/" + allocation + ".web.scope")
	f.Add("/machine.slice/machine-web.scope/payload/init.scope")
	f.Add("/a/kubepods-pod1.slice:cri-containerd:" + testID)
	f.Fuzz(func(t *testing.T, path string) {
		p := parseCgroup(path)
		if again := parseProcCgroup("0::" + path + "\n"); !strings.Contains(path, "\n") && again != p {
			t.Errorf("%q: as a line of /proc it is %+v, want %+v", path, again, p)
		}
		for _, r := range p.unit {
			if r <= ' ' || r >= 0x7f || strings.ContainsRune("/\"'<>&%;$`", r) {
				t.Errorf("%q: unit %q", path, p.unit)
			}
		}
		if p.unit != "" && (len(p.unit) > 255 || !strings.HasSuffix(p.unit, ".service") && !strings.HasSuffix(p.unit, ".scope") ||
			!strings.Contains("/"+path+"/", "/"+p.unit+"/")) {
			t.Errorf("%q: unit %q", path, p.unit)
		}
		digits := map[string][]int{"": {shortID}, "docker": {shortID}, "podman": {shortID}, "containerd": {shortID}, "cri-o": {shortID},
			"kubernetes": {shortID}, "nomad": {shortAllocation, shortID}}
		if n, known := digits[p.runtime]; !known || p.container == "" && p.runtime != "" || p.container != "" && !slices.Contains(n, len(p.container)) {
			t.Errorf("%q: container %q of runtime %q", path, p.container, p.runtime)
		}
		if strings.Trim(p.container, "0123456789abcdef") != "" || !strings.Contains(path, p.container) {
			t.Errorf("%q: container %q", path, p.container)
		}
	})
}

func TestParseProcCgroup(t *testing.T) {
	docker := place{"", "0123456789ab", "docker"}
	for _, test := range []struct {
		name, text string
		want       place
	}{
		{"version 2", "0::/system.slice/a.service\n", place{unit: "a.service"}},
		{"version 1", "9:name=systemd:/system.slice/a.service\n8:pids:/b.service\n", place{unit: "a.service"}},
		{"other hierarchies", "8:pids:/b.service\n9:name=systemd:/system.slice/a.service\n", place{unit: "a.service"}},
		{"hybrid, container in version 1", "9:name=systemd:/docker/" + testID + "\n8:pids:/b.service\n0::/system.slice/c.service\n",
			place{"c.service", docker.container, docker.runtime}},
		{"version 2 before version 1", "9:name=systemd:/a.service\n0::/b.service\n", place{unit: "b.service"}},
		{"container in version 2 before version 1", "9:name=systemd:/docker/" + otherID + "\n0::/docker/" + testID + "\n", docker},
		{"colons in the path", "0::/a.slice/x:y.service\n", place{unit: "x:y.service"}},
		{"nothing", "", place{}},
		{"malformed", "0:\n\n:::\nx", place{}},
	} {
		if got := parseProcCgroup(test.text); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestIsManager(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/init.scope\n":                                              true,
		"9:name=systemd:/init.scope\n0::/\n":                            true,
		"8:pids:/init.scope\n":                                          false,
		"0::/docker/" + testID + "/init.scope\n":                        false,
		"0::/machine.slice/m.scope/payload/init.scope\n":                false,
		"0::/user.slice/user-1000.slice/user@1000.service/init.scope\n": false,
		"0::/init.scope/a\n":                                            false,
		"":                                                              false,
	} {
		if got := isManager(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
