// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

const (
	crowdProcesses = 200 // each in a cgroup of its own
	crowdListeners = 10  // of each
	crowdTalkers   = 10  // processes with connections
)

// listenMany is the role of a server with n listeners, and connectMany that of a process with n connections to itself, which
// are two sockets each.
func listenMany(n int) error {
	for range n {
		if _, err := listenOne(); err != nil {
			return err
		}
	}
	_, err := fmt.Println("ready")
	return err
}

func connectMany(n int) error {
	server, err := listenOne()
	if err != nil {
		return err
	}
	address, err := unix.Getsockname(server)
	if err != nil {
		return err
	}
	for range n {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(client, address); err != nil {
			return err
		}
		if _, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC); err != nil {
			return err
		}
	}
	unix.Close(server) // it is not one of the crowd's
	_, err = fmt.Println("ready")
	return err
}

func listenOne() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	return fd, err
}

// ownersOfAll is the role of a process that finds the owners of the crowd's listeners, or of 10 of them, or of all without
// a program in the kernel.
func ownersOfAll(how string) error {
	listeners, err := List(context.Background())
	if err != nil {
		return err
	}
	if how == "10" {
		listeners = listeners[:10]
	}
	owners := NewOwners()
	owners.tried = how == "proc"
	result, err := owners.Lookup(context.Background(), listeners)
	for _, owner := range result.ByCookie {
		if err == nil && len(owner.Processes) == 0 {
			err = errors.New("a socket has no owner")
		}
	}
	return err
}

// crowd starts servers with 2,000 listeners, each in a cgroup of its own if they are to be apart.
func crowd(b *testing.B, apart bool) {
	b.Helper()
	tree, err := openCgroups()
	check(b, err)
	b.Cleanup(func() { tree.Close() })
	slice := filepath.Join(tree.mount, fmt.Sprintf("hostagent-test-%d.slice", os.Getpid()))
	if apart {
		check(b, os.Mkdir(slice, 0o755))
		b.Cleanup(func() { removeSoon(slice) })
	}
	for i := range crowdProcesses {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleEnv+"=listen-many "+strconv.Itoa(crowdListeners))
		if apart {
			dir := filepath.Join(slice, fmt.Sprintf("web-%d.service", i))
			check(b, os.Mkdir(dir, 0o755))
			b.Cleanup(func() { removeSoon(dir) })
			cgroup, err := os.Open(dir)
			check(b, err)
			defer cgroup.Close()
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
		}
		start(b, cmd)
	}
}

// removeSoon removes a cgroup; it is busy for a moment after its last process ended.
func removeSoon(dir string) {
	for deadline := time.Now().Add(5 * time.Second); os.Remove(dir) != nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// talk starts processes that have n sockets with connections in all.
func talk(b *testing.B, n int) {
	b.Helper()
	check(b, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("5000 65000"), 0))
	raiseFiles(b, uint64(n/crowdTalkers+1000))
	for range crowdTalkers {
		child(b, "connect-many "+strconv.Itoa(n/2/crowdTalkers), os.Geteuid())
	}
}

// BenchmarkOwnersOfAll finds the owners of 2,000 listeners in 200 processes, each in a cgroup of its own, and in none;
// alone, and beside 50,000 sockets with connections in other processes. Whole processes, as the peer is one.
func BenchmarkOwnersOfAll(b *testing.B) {
	netns.RequireRoot(b, "makes cgroups and loads a BPF program")
	lo, err := net.InterfaceByName("lo")
	if check(b, err); lo.Flags&net.FlagUp == 0 {
		b.Fatal("lo is down")
	}
	for _, place := range []struct {
		name  string
		apart bool
	}{{"cgroups", true}, {"one-cgroup", false}} {
		b.Run(place.name, func(b *testing.B) {
			crowd(b, place.apart)
			measure := func(b *testing.B) {
				for name, role := range map[string]string{"hostagent": "owners", "hostagent-10": "owners 10", "hostagent-without-bpf": "owners proc"} {
					b.Run(name, func(b *testing.B) { whole(b, role, "/proc/self/exe") })
				}
				b.Run("peer=ss -ltnp", func(b *testing.B) { whole(b, "", "ss", "-ltnp") })
			}
			b.Run("connections=0", measure)
			talk(b, 50000)
			b.Run("connections=50000", measure)
		})
	}
}

// whole runs a program, or this one in a role. Beside the time it reports what the processors spent, which is less
// disturbed by a machine that does something else meanwhile.
func whole(b *testing.B, role string, program ...string) {
	var spent time.Duration
	for b.Loop() {
		cmd := exec.Command(program[0], program[1:]...)
		cmd.Env = append(os.Environ(), roleEnv+"="+role)
		cmd.Stderr = os.Stderr
		check(b, cmd.Run())
		spent += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms")
}
