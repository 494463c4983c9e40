// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain makes the test binary pass for an agent when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Stdout.WriteString("started\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until its parent ends it, or itself
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startAgent starts a process in dir that looks like an agent, and returns its pid and what ends it.
func startAgent(t *testing.T, dir string, args ...string) (pid int, end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	end = func() {
		stdin.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func lookingAt(from Sources) *looking {
	return &looking{from: from, in: &Input{}, accounts: readAccounts("")}
}

func TestReadProcess(t *testing.T) {
	dir := t.TempDir()
	pid, end := startAgent(t, dir, "agent", "-dev", "-config-dir", "conf.d", "--config-file=/etc/x.hcl", "-encrypt", "c2VjcmV0", "-node=n1")
	l := lookingAt(Sources{PID: pid, Unit: "consul.service"})
	got := l.readProcess(procDir)
	if !got.Known {
		t.Fatalf("not known: %s", got.Reason)
	}
	p := got.Value
	want := Process{UID: uint32(os.Geteuid()), User: l.accounts.user(uint32(os.Geteuid())).name, Unit: "consul.service",
		Flags: []string{"dev", "encrypt", "node"}}
	if diff := cmp.Diff([]string{filepath.Join(dir, "conf.d"), "/etc/x.hcl"}, l.started.paths); diff != "" {
		t.Errorf("where it reads its configuration (-want +got)\n%s", diff)
	}
	for name, missing := range map[string]bool{
		"NoNewPrivs": p.NoNewPrivs == nil, "Effective": p.Effective == nil, "Bounding": p.Bounding == nil,
		"CoreLimited": p.CoreLimited == nil, "ReadOnly": p.ReadOnly == nil,
	} {
		if missing {
			t.Errorf("%s is not known", name)
		}
	}
	if age := time.Since(p.Started); age < -time.Second || age > 30*time.Second {
		t.Errorf("started at %v, which is %v ago", p.Started, age)
	}
	p.Started = time.Time{}
	p.NoNewPrivs, p.Effective, p.Bounding, p.CoreLimited, p.ReadOnly = nil, nil, nil, nil, nil
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	end()
	wantGone := Unseen[Process]("its process cannot be looked at: no such file or directory", "run as root")
	if diff := cmp.Diff(wantGone, lookingAt(Sources{PID: pid}).readProcess(procDir)); diff != "" {
		t.Errorf("after its end: -want +got\n%s", diff)
	}
}

func TestReadProcessOfFiles(t *testing.T) {
	const status = "Name:\tconsul\nUid:\t0\t997\t997\t997\nCapEff:\t0000000000000400\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n"
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max core file size        0                    unlimited            bytes     \n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Seen[Process]
	}{
		{"whole", map[string]string{"cmdline": "consul\x00agent\x00-config-dir=/etc/consul.d\x00", "status": status, "limits": limits,
			"mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 8:1 /usr /usr ro,relatime - ext4 /dev/sda1 rw\n"},
			Known(Process{UID: 997, User: "997", NoNewPrivs: new(true), Effective: new(uint64(0x400)),
				Bounding: new(uint64(0x1ffffffffff)), CoreLimited: new(true), ReadOnly: new(true)})},
		{"little", map[string]string{"cmdline": "consul\x00agent\x00", "status": "Uid:\t5\t5\t5\t5\nCapEff:\tx\n"}, Known(Process{UID: 5, User: "5"})},
		{"ended", map[string]string{"cmdline": "consul\x00agent\x00", "status": ""},
			Unseen[Process]("its process cannot be looked at: it has ended", "")},
		{"a proxy before it", map[string]string{"cmdline": "haproxy\x00-f\x00/etc/haproxy.cfg\x00", "status": status},
			Unseen[Process](`what listens at its address was not started as "consul agent"`, "run it where the agent itself listens at its HTTP address")},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			write(t, filepath.Join(proc, "7"), c.files)
			l := &looking{from: Sources{PID: 7}, in: &Input{}}
			if diff := cmp.Diff(c.want, l.readProcess(proc)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// write makes files in a folder.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadCommandLine(t *testing.T) {
	for _, c := range []struct {
		name, text, cwd string
		want            started
		isAgent         bool
	}{
		{"of a unit", "/usr/bin/consul\x00agent\x00-config-dir=/etc/consul.d/\x00", "/", started{paths: []string{"/etc/consul.d/"}}, true},
		{"order", "consul\x00agent\x00-config-file\x00b.hcl\x00-config-dir\x00/a\x00", "/srv", started{paths: []string{"/srv/b.hcl", "/a"}}, true},
		{"a switch takes nothing", "consul\x00agent\x00-server\x00-config-dir\x00/a\x00", "/", started{paths: []string{"/a"}, flags: []string{"server"}}, true},
		{"another flag takes the next", "consul\x00agent\x00-node\x00-config-dir\x00/a\x00-dev\x00", "/", started{flags: []string{"node"}}, true},
		{"no further", "consul\x00agent\x00--\x00-config-dir\x00/a\x00", "/", started{}, true},
		{"secrets", "consul\x00agent\x00-encrypt=AAAA\x00-encrypt\x00BBBB\x00-CCCC\x00--0ddd\x00-eeee-9=x\x00", "/", started{flags: []string{"encrypt"}}, true},
		{"nowhere", "consul\x00agent\x00-config-dir\x00a\x00", "", started{nowhere: true}, true},
		{"cut off", "consul\x00agent\x00-config-dir", "/", started{}, true},
		{"another command", "consul\x00connect\x00proxy\x00", "/", started{}, false},
		{"a kernel thread", "", "/", started{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, isAgent := readCommandLine(c.text, c.cwd)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(started{})); diff != "" || isAgent != c.isAgent {
				t.Errorf("agent %v, -want +got\n%s", isAgent, diff)
			}
		})
	}
}

func TestStartOf(t *testing.T) {
	const rest = " S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 9 0 "
	for _, stat := range []string{"", "7 (consul)", "7 (consul)" + rest, "7 (consul)" + rest + "x 1", "7 (consul)" + rest + "-5 1",
		"7 (consul)" + rest + "9223372036854775807 1"} {
		if got := startOf(stat); !got.IsZero() {
			t.Errorf("%q: %v", stat, got)
		}
	}
	plain, odd := startOf("7 (consul)"+rest+"500 1"), startOf("7 (a) S 2 (b)"+rest+"500 1")
	if d := odd.Sub(plain); plain.IsZero() || d < -time.Second || d > time.Second {
		t.Errorf("%v and %v", plain, odd)
	}
}

func TestReadOnly(t *testing.T) {
	const root = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	for _, c := range []struct {
		name, mounts string
		want         *bool
	}{
		{"none", "", nil},
		{"of the root", root, new(false)},
		{"a read-only root", "22 1 8:1 / / ro shared:1 - ext4 /dev/sda1 ro\n", new(true)},
		{"ProtectSystem", root + "40 22 8:1 /usr /usr ro - ext4 /dev/sda1 rw\n", new(true)},
		{"in another order", "40 22 8:1 /usr /usr ro - ext4 /dev/sda1 rw\n" + root, new(true)},
		{"below", root + "40 22 8:1 /usr/lib /usr/lib ro - ext4 /dev/sda1 rw\n", new(false)},
		{"beside", root + "40 22 8:1 /us /us ro - ext4 /dev/sda1 rw\n", new(false)},
		{"covered", root + "40 22 8:1 /usr /usr ro - ext4 a rw\n41 22 8:1 /usr /usr rw - ext4 b rw\n", new(false)},
		{"by its file system", root + "40 22 7:1 / /usr rw - squashfs /dev/loop0 ro\n", new(true)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, readOnly(c.mounts, "/usr")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestIsElsewhere(t *testing.T) {
	here := t.TempDir()
	write(t, here, map[string]string{"conf/a.hcl": "", "only-here": ""})
	root := t.TempDir() // of the agent
	write(t, root, map[string]string{here + "/conf/a.hcl": ""})
	if err := os.Symlink(filepath.Join(here, "conf"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	proc := t.TempDir()
	for pid, at := range map[int]string{1: "/", 2: root} {
		if err := os.MkdirAll(filepath.Join(proc, strconv.Itoa(pid)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(proc, strconv.Itoa(pid), "root")); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		pid  int
		path string
		want bool
	}{
		{"the same root", 1, here + "/conf", false},
		{"another folder", 2, here + "/conf", true},
		{"only here", 2, here + "/only-here", true},
		{"only there", 2, "/link", true},
		{"nowhere", 2, "/no/such/folder", false},
		{"no process", 0, here + "/conf", false},
		{"not to be seen", 3, here + "/conf", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lookingAt(Sources{PID: c.pid}).isElsewhere(proc, c.path); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestAccounts(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/bash\nconsul:x:997:997::/:/usr/sbin/nologin\nalice:x:1000:1000::/home/alice:/bin/sh\n" +
			"bob:x:1001:997::/home/bob:/bin/false\nbroken\nnone:x:a:1::/:/bin/sh\n",
		"etc/group": "root:x:0:\nconsul:x:997:root,consul,carol\nalice:x:1000:\n",
	})
	a := readAccounts(root)
	got := map[string]any{
		"owner": a.owner(0, 997), "numbers": a.owner(12, 13),
		"members": a.members(997, func(uid uint32) bool { return uid == 997 }), "all": a.members(997, func(uint32) bool { return false }),
		"root logs in": a.user(0).logsIn(), "alice": a.user(1000).logsIn(), "bob": a.user(1001).logsIn(), "nobody": a.user(4000).logsIn(),
	}
	want := map[string]any{
		"owner": "root:consul", "numbers": "12:13", "members": []string{"bob", "carol"}, "all": []string{"bob", "carol", "consul"},
		"root logs in": false, "alice": true, "bob": false, "nobody": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := readAccounts(filepath.Join(root, "none")); len(got.users)+len(got.groups) > 0 {
		t.Errorf("accounts of no files: %v", got)
	}
}
