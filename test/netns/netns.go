// SPDX-License-Identifier: MPL-2.0

// Package netns runs a whole test binary in namespaces of its own, so that tests may change firewalls, interfaces and
// /run without touching the machine they run on.
//
// A package's TestMain calls Main. As root the binary is started again in a new network and mount namespace; as an
// ordinary user in a new user, network and mount namespace, where it is root over its own world. A machine that cannot
// make namespaces fails the tests: nothing skips in silence.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	insideEnv = "HOSTAGENT_TEST_NETNS" // "root" or "user": how the surrounding namespaces were made
	skipEnv   = "HOSTAGENT_TEST_SKIP_NETNS"
	againEnv  = "HOSTAGENT_TEST_AGAIN" // "1": the same tests have passed as root just now
)

var (
	skippedMu sync.Mutex
	skipped   []string
)

// Main runs m inside fresh namespaces and ends the process with its status.
// HOSTAGENT_TEST_SKIP_NETNS=1 skips the whole package, loudly.
func Main(m *testing.M) {
	Enter()
	code := m.Run()
	if len(skipped) > 0 {
		fmt.Fprintf(os.Stderr, "tests not run here:\n  %s\n", strings.Join(skipped, "\n  "))
	}
	os.Exit(code)
}

// Enter returns inside fresh namespaces. The process that called it has started itself again there, hands over files as
// descriptors 3, 4 and so on, waits, and ends with the other's status. It is for a main function; tests call Main.
func Enter(files ...*os.File) {
	if !Inside() {
		os.Exit(enter(files))
	}
	if err := furnish(); err != nil {
		fmt.Fprintf(os.Stderr, "netns: cannot furnish the namespace: %v\n"+
			"Run as root, or allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)\n", err)
		os.Exit(1)
	}
}

// Inside tells whether this process runs in the namespaces that Enter makes.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Rootless tells whether the tests run in a user namespace of an ordinary user.
func Rootless() bool { return os.Getenv(insideEnv) == "user" }

// RequireRoot skips t where the tests run as an ordinary user; Main prints the names of all tests skipped so.
func RequireRoot(t testing.TB, reason string) {
	t.Helper()
	if Rootless() {
		skip(t, "root-only: "+reason)
	}
}

// Once skips t where test/run.sh runs the tests a second time, as an ordinary user, after root: of a test to which it makes
// no difference who runs it. Where nobody ran it as root it runs. Main prints the names of all tests skipped so.
func Once(t testing.TB) {
	t.Helper()
	if os.Getenv(againEnv) == "1" {
		skip(t, "once is enough: root has just run it")
	}
}

// Lacking ends t because the machine lacks what it needs: with a failure where CI is set, which says that everything has to be
// there, and elsewhere as RequireRoot does.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("this machine lacks %s, and CI is set", what)
	}
	skip(t, "this machine lacks "+what)
}

func skip(t testing.TB, reason string) {
	t.Helper()
	skippedMu.Lock()
	skipped = append(skipped, t.Name()+": "+reason)
	skippedMu.Unlock()
	t.Skip(reason)
}

func enter(files []*os.File) int {
	if os.Getenv(skipEnv) == "1" {
		fmt.Fprintf(os.Stderr, "SKIPPED: every test of %s (%s=1)\n", os.Args[0], skipEnv)
		return 0
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "netns:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	kind := "root"
	if os.Geteuid() != 0 {
		kind = "user"
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd.Env = append(os.Environ(), insideEnv+"="+kind)
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintf(os.Stderr, "netns: cannot start in namespaces of our own: %v\n"+
		"Run them as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1);\n"+
		"%s=1 leaves a package of tests out.\n", err, skipEnv)
	return 1
}

// stateDir is where a hostagent that is installed on this machine keeps its state.
const stateDir = "/var/lib/hostagent"

// furnish makes the new namespaces usable: mounts stay private, /run is empty, lo is up. What a hostagent of this machine
// has saved is out of reach.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("cannot mount a tmpfs on /run: %w", err)
	}
	if _, err := os.Stat(stateDir); err == nil {
		if err := unix.Mount("tmpfs", stateDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
			return fmt.Errorf("cannot mount a tmpfs on %s: %w", stateDir, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	return nil
}
