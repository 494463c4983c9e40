// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// What the program counts, as indexes of its array.
const (
	hereCounter = iota
	elsewhereCounter
	counters
)

// recordSize is what a record takes in the ring buffer: a header of eight bytes, and four that are rounded up to eight.
const recordSize = 16

// loadCounter loads the program that counts in counts what begins to listen, and then rings with a record in ring.
func loadCounter(counts, ring *ebpf.Map) (*ebpf.Program, error) {
	cookie, err := namespaceCookie()
	if err == nil {
		if program, err := load(counterProgram(counts, ring, &cookie)); err == nil {
			return program, nil
		}
	}
	// SO_NETNS_COOKIE came with Linux 5.14, and sock_ops programs may ask for the cookie since 5.15.
	return load(counterProgram(counts, ring, nil))
}

func load(program asm.Instructions) (*ebpf.Program, error) {
	loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "hostagent_heard", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "MPL-2.0", Instructions: program,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot load a sock_ops program: %w", err)
	}
	return loaded, nil
}

// namespaceCookie returns what programs know the calling thread's network namespace by.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot make a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("cannot learn the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// counterProgram counts each listen(2) here or elsewhere, by the cookie of the namespace that is here; both where that is
// nil. The count comes before the record: who empties the ring and then reads the counts misses nothing. It returns 1, which
// leaves what other programs answer to the kernel as it is, and writes nothing that the kernel reads.
func counterProgram(counts, ring *ebpf.Map, here *uint64) asm.Instructions {
	const tcpListen = 11 // BPF_SOCK_OPS_TCP_LISTEN_CB; the socket is in the kernel's tables already
	const index = -4     // on the stack: index of a counter, and content of the record
	program := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), // op
		asm.JNE.Imm(asm.R2, tcpListen, "out"),
	}
	if here != nil {
		program = append(program,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.FnGetNetnsCookie.Call(),
			asm.Mov.Imm(asm.R7, hereCounter),
			asm.LoadImm(asm.R1, int64(*here), asm.DWord),
			asm.JEq.Reg(asm.R0, asm.R1, "count"),
			asm.Mov.Imm(asm.R7, elsewhereCounter),
			asm.StoreMem(asm.RFP, index, asm.R7, asm.Word).WithSymbol("count"),
		)
		program = append(program, count(counts, index, "ring")...)
	} else {
		program = append(program, asm.StoreImm(asm.RFP, index, hereCounter, asm.Word))
		program = append(program, count(counts, index, "second")...)
		program = append(program, asm.StoreImm(asm.RFP, index, elsewhereCounter, asm.Word).WithSymbol("second"))
		program = append(program, count(counts, index, "ring")...)
	}
	return append(program,
		asm.LoadMapPtr(asm.R1, ring.FD()).WithSymbol("ring"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, index),
		asm.Mov.Imm(asm.R3, 4),
		asm.Mov.Imm(asm.R4, 0), // wake the reader where it has read all before
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
		asm.Return(),
	)
}

// count adds one to the counter whose index stands on the stack. next is the label behind it.
func count(counts *ebpf.Map, index int16, next string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(index)),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, next),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
	}
}
