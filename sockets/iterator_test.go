// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// kernelIterator returns a loaded iterator.
func kernelIterator(t testing.TB) *fileIterator {
	t.Helper()
	netns.RequireRoot(t, "loads a BPF program")
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		netns.Lacking(t, fmt.Sprintf("a kernel that describes its types: %v", err))
	}
	if namespace, err := os.Readlink("/proc/self/ns/pid"); err != nil || namespace != initPIDNamespace {
		netns.Lacking(t, fmt.Sprintf("the first PID namespace: these tests run in %s, %v", namespace, err))
	}
	files, err := newFileIterator()
	check(t, err)
	t.Cleanup(func() { files.Close() })
	return files
}

// TestIterator: the program in the kernel finds each kind of listener, and with it the process and the descriptor.
func TestIterator(t *testing.T) {
	files := kernelIterator(t)
	pid, port, _ := child(t, "listen", nobody)
	want := map[uint32]int32{one(t, port).Inode: pid}
	for _, kind := range []struct{ kind, protocol int }{{unix.SOCK_STREAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, {unix.SOCK_DGRAM, 0}} {
		for _, addr := range []string{"127.0.0.1:0", "[::]:0"} {
			b := open(t, kind.kind, kind.protocol, addr, "")
			want[one(t, strconv.Itoa(int(b.port))).Inode] = int32(os.Getpid())
		}
	}
	// Connections, of which a host has many, are not among them.
	listener := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(client)
	check(t, unix.Connect(client, &unix.SockaddrInet4{Port: int(listener.port), Addr: [4]byte{127, 0, 0, 1}}))
	accepted, _, err := unix.Accept4(listener.fd, unix.SOCK_CLOEXEC)
	check(t, err)
	defer unix.Close(accepted)
	connections := []int32{int32(client), int32(accepted)}

	found := map[uint32]int32{}
	check(t, files.each(t.Context(), func(inode uint64, h holder) {
		if _, ok := want[uint32(inode)]; ok {
			found[uint32(inode)] = h.pid
			if !h.holds(uint32(inode)) {
				t.Errorf("process %d does not have socket %d as %d", h.pid, inode, h.descriptor)
			}
		}
		if h.pid == int32(os.Getpid()) && slices.Contains(connections, h.descriptor) {
			t.Errorf("descriptor %d is a connection", h.descriptor)
		}
	}))
	for inode, pid := range want {
		if found[inode] != pid {
			t.Errorf("socket %d: process %d, want %d", inode, found[inode], pid)
		}
	}
}

// TestIteratorIsUsed: what it finds needs no walk, and what it does not find is left to the walk.
func TestIteratorIsUsed(t *testing.T) {
	files := kernelIterator(t)
	l := one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port)))
	wanted := map[uint32]bool{l.Inode: true, 1: true}
	s := newSearch()
	check(t, s.inKernel(t.Context(), files, wanted))
	if len(s.holders) != 1 || len(s.holders[l.Inode]) != 1 {
		t.Errorf("want one holder of socket %d and nothing else, got %v", l.Inode, s.holders)
	}
	check(t, newSearch().inKernel(t.Context(), nil, wanted))
	check(t, newSearch().inKernel(t.Context(), &fileIterator{link: -1}, wanted)) // no iterator, no error: the walk is left

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newSearch().inKernel(ended, files, wanted); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestWithoutIterator: the walk of /proc finds the same.
func TestWithoutIterator(t *testing.T) {
	l := one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port)))
	owners := NewOwners()
	owners.tried = true
	if got := pids(lookup(t, owners, l)); !slices.Equal(got, []int32{int32(os.Getpid())}) {
		t.Errorf("got processes %d, want this one", got)
	}
}
