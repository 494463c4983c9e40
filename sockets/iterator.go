// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

const (
	// initPIDNamespace is the inode of the first PID namespace, the only one in which the kernel's own number of a process
	// is the one that /proc shows (PROC_PID_INIT_INO in include/linux/proc_ns.h).
	initPIDNamespace = "pid:[4026531836]"

	// A listening or unconnected socket is SS_UNCONNECTED (include/uapi/linux/net.h); established ones, the many, are not.
	// What is asked of the others is the state of the protocol, TCP_CLOSE or TCP_LISTEN (include/net/tcp_states.h).
	socketUnconnected   = 1
	protocolStateClose  = 7
	protocolStateListen = 10

	maxTypes = 64 << 20 // bytes; distributions' kernels have 5 to 7 MB

	// recordLen is what the program writes of a socket: its inode, 8 bytes, and process and descriptor, 4 bytes each.
	recordLen = 16
)

// fileIterator finds the listening and unconnected sockets of all processes by a BPF program that the kernel runs over
// their open files: one that reads /proc/PID/fd of 50,000 connections takes eight times as long.
//
// It talks to bpf(2) itself. The library would first index all types of the kernel to learn the number of one: 30 ms
// and 6 MB, more than the rest of the search.
type fileIterator struct {
	link int // a descriptor
}

// newFileIterator loads the program. It takes CAP_BPF and CAP_PERFMON (or root's CAP_SYS_ADMIN), Linux 5.11 and the
// kernel's types in /sys/kernel/btf.
func newFileIterator() (*fileIterator, error) {
	// A service's system call filter may kill who calls bpf(2) without the right to.
	const need = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
	if has := capabilities(); has&need != need && has&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return nil, errors.New("cannot load a BPF program without CAP_BPF and CAP_PERFMON")
	}
	if !isInitial("pid", initPIDNamespace) {
		return nil, errors.New("cannot use the numbers that the kernel gives to processes: this is another PID namespace")
	}
	types, err := kernelTypes()
	if err != nil {
		return nil, err
	}
	program, err := loadIterator(types)
	if err != nil {
		return nil, fmt.Errorf("cannot load a BPF program: %w", err)
	}
	defer unix.Close(program)
	native := binary.NativeEndian
	attr := make([]byte, 32) // its link_create
	native.PutUint32(attr[0:], uint32(program))
	native.PutUint32(attr[8:], unix.BPF_TRACE_ITER)
	link, err := bpf(unix.BPF_LINK_CREATE, attr)
	if err != nil {
		return nil, fmt.Errorf("cannot attach a BPF iterator: %w", err)
	}
	return &fileIterator{link}, nil
}

func (i *fileIterator) Close() error { return unix.Close(i.link) }

// each calls found for the listening and unconnected sockets, IPv4 and IPv6, of all processes, and with what each of
// them has it open. Descriptors of one process come together.
func (i *fileIterator) each(ctx context.Context, found func(inode uint64, h holder)) error {
	attr := make([]byte, 8) // its iter_create
	native := binary.NativeEndian
	native.PutUint32(attr, uint32(i.link))
	fd, err := bpf(unix.BPF_ITER_CREATE, attr)
	if err != nil {
		return fmt.Errorf("cannot start a BPF iterator: %w", err)
	}
	defer unix.Close(fd)
	buffer := make([]byte, 32<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The kernel goes through at most a million files in one call, and then says EAGAIN (kernel/bpf/bpf_iter.c).
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("cannot read from a BPF iterator: %w", err)
		case n == 0:
			return nil
		}
		for record := buffer[:n]; len(record) >= recordLen; record = record[recordLen:] {
			found(native.Uint64(record), holder{int32(native.Uint32(record[8:])), int32(native.Uint32(record[12:]))})
		}
	}
}

// loadIterator loads the program and returns its descriptor.
func loadIterator(types *iteratorTypes) (int, error) {
	var order binary.ByteOrder = binary.LittleEndian // of the machine, in the words of the library
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = binary.BigEndian
	}
	var code bytes.Buffer
	if err := iteratorProgram(types).Marshal(&code, order); err != nil {
		return -1, err
	}
	license := []byte("GPL\x00") // the helpers ask for it
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pointer := func(b []byte) uint64 {
		pinner.Pin(&b[0])
		return uint64(uintptr(unsafe.Pointer(&b[0])))
	}
	native := binary.NativeEndian
	attr := make([]byte, 120) // union bpf_attr of include/uapi/linux/bpf.h
	native.PutUint32(attr[0:], unix.BPF_PROG_TYPE_TRACING)
	native.PutUint32(attr[4:], uint32(code.Len()/asm.InstructionSize))
	native.PutUint64(attr[8:], pointer(code.Bytes()))
	native.PutUint64(attr[16:], pointer(license))
	copy(attr[48:63], "hostagent_files")
	native.PutUint32(attr[68:], unix.BPF_TRACE_ITER)
	native.PutUint32(attr[108:], types.iterator)
	return bpf(unix.BPF_PROG_LOAD, attr)
}

// bpf is bpf(2) with the commands that return a descriptor.
func bpf(command uintptr, attr []byte) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// iteratorProgram is called by the kernel with a struct bpf_iter__task_file: pointers to meta, task, a descriptor, and
// the file. The verifier knows their types and lets it read nothing else.
func iteratorProgram(types *iteratorTypes) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 24, asm.DWord), // file
		asm.JEq.Imm(asm.R7, 0, "out"),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSockFromFile.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"), // not a socket
		asm.LoadMem(asm.R1, asm.R0, types.socketState, asm.Word),
		asm.JNE.Imm(asm.R1, socketUnconnected, "out"),
		asm.LoadMem(asm.R2, asm.R0, types.socketSock, asm.DWord),
		asm.JEq.Imm(asm.R2, 0, "out"),
		asm.LoadMem(asm.R1, asm.R2, types.sockFamily, asm.Half),
		asm.JEq.Imm(asm.R1, unix.AF_INET, "internet"),
		asm.JNE.Imm(asm.R1, unix.AF_INET6, "out"),
		asm.LoadMem(asm.R1, asm.R2, types.sockState, asm.Byte).WithSymbol("internet"),
		asm.JEq.Imm(asm.R1, protocolStateListen, "found"),
		asm.JNE.Imm(asm.R1, protocolStateClose, "out"),
		asm.LoadMem(asm.R1, asm.R7, types.fileInode, asm.DWord).WithSymbol("found"),
		asm.LoadMem(asm.R1, asm.R1, types.inodeNumber, asm.DWord),
		asm.StoreMem(asm.RFP, -16, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord), // task
		asm.JEq.Imm(asm.R1, 0, "out"),
		asm.LoadMem(asm.R1, asm.R1, types.taskGroup, asm.Word),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, 16, asm.Word), // descriptor
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord), // meta
		asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord), // its seq_file
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -recordLen),
		asm.Mov.Imm(asm.R3, recordLen),
		asm.FnSeqWrite.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	}
}

// kernelTypes reads them from the kernel's own description. It is kept out of Go's heap: 5 MB that are wanted once.
func kernelTypes() (*iteratorTypes, error) {
	file, err := os.Open("/sys/kernel/btf/vmlinux")
	if err != nil {
		return nil, fmt.Errorf("cannot read the types of the kernel: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the types of the kernel: %w", err)
	}
	if info.Size() <= 0 || info.Size() > maxTypes {
		return nil, fmt.Errorf("cannot read the types of the kernel: %d bytes", info.Size())
	}
	length := int(info.Size())
	if memory, err := unix.Mmap(int(file.Fd()), 0, length, unix.PROT_READ, unix.MAP_PRIVATE); err == nil {
		defer func() { _ = unix.Munmap(memory) }()
		return parseTypes(memory)
	}
	// Before Linux 6.16 it cannot be mapped.
	memory, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot read the types of the kernel: %w", err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	if _, err := io.ReadFull(file, memory); err != nil {
		return nil, fmt.Errorf("cannot read the types of the kernel: %w", err)
	}
	return parseTypes(memory)
}
