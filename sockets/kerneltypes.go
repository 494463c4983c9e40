// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	typesMagic     = 0xeb9f
	typesHeaderLen = 24
	typeLen        = 12 // struct btf_type
	memberLen      = 12 // struct btf_member

	kindStruct = 4
	kindFunc   = 12
)

// iteratorTypes is what the BPF iterator needs to know of the running kernel.
type iteratorTypes struct {
	iterator uint32 // the id of the function that the program stands for
	// Offsets of members, in bytes.
	taskGroup, fileInode, inodeNumber, socketState, socketSock, sockFamily, sockState int16
}

// wantedMember is a member whose offset is wanted.
type wantedMember struct {
	structure, member string
	offset            *int16
}

// parseTypes reads the kernel's description of its types, /sys/kernel/btf/vmlinux
// (Documentation/bpf/btf.rst). The kernel wrote it, yet no length in it is believed.
func parseTypes(description []byte) (*iteratorTypes, error) {
	types, names, err := typeSections(description)
	if err != nil {
		return nil, err
	}
	var found iteratorTypes
	members := []wantedMember{
		{"task_struct", "tgid", &found.taskGroup},
		{"file", "f_inode", &found.fileInode},
		{"inode", "i_ino", &found.inodeNumber},
		{"socket", "state", &found.socketState},
		{"socket", "sk", &found.socketSock},
		// A struct sock begins with its sock_common (include/net/sock.h).
		{"sock_common", "skc_family", &found.sockFamily},
		{"sock_common", "skc_state", &found.sockState},
	}
	function := nameOffset(names, "bpf_iter_task_file")
	structures := make(map[uint32][]wantedMember)
	for _, m := range members {
		*m.offset = -1
		at := nameOffset(names, m.structure)
		structures[at] = append(structures[at], m)
	}
	delete(structures, 0)
	native := binary.NativeEndian
	for id := uint32(1); len(types) >= typeLen && !found.whole(); id++ {
		name, info := native.Uint32(types), native.Uint32(types[4:])
		kind, count := info>>24&0x1f, int(info&0xffff)
		more, ok := typeTail(kind, count)
		if !ok || more > len(types)-typeLen {
			return nil, fmt.Errorf("cannot parse type %d of the kernel: of kind %d with %d members", id, kind, count)
		}
		tail := types[typeLen : typeLen+more]
		switch {
		case kind == kindFunc && name == function && name != 0:
			found.iterator = id
		case kind == kindStruct:
			for _, m := range structures[name] {
				m.look(tail, nameOffset(names, m.member), info>>31 == 1)
			}
		}
		types = types[typeLen+more:]
	}
	if !found.whole() {
		return nil, errors.New("cannot find all that is needed among the types of the kernel")
	}
	return &found, nil
}

// whole tells whether all was found: an offset that was not is negative.
func (t *iteratorTypes) whole() bool {
	return t.iterator != 0 &&
		min(t.taskGroup, t.fileInode, t.inodeNumber, t.socketState, t.socketSock, t.sockFamily, t.sockState) >= 0
}

// look sets the offset if the member is among those of a structure. In bit fields the upper byte of an offset is a size.
func (m wantedMember) look(members []byte, name uint32, bitFields bool) {
	native := binary.NativeEndian
	for ; len(members) >= memberLen; members = members[memberLen:] {
		if native.Uint32(members) != name || name == 0 {
			continue
		}
		bits := native.Uint32(members[8:])
		if bitFields {
			bits &= 0xffffff
		}
		if bits%8 == 0 && bits/8 < 1<<15 {
			*m.offset = int16(bits / 8)
		}
	}
}

// typeSections returns the sections of types and of names.
func typeSections(description []byte) (types, names []byte, err error) {
	if len(description) < typesHeaderLen || binary.NativeEndian.Uint16(description) != typesMagic {
		return nil, nil, errors.New("cannot parse the types of the kernel: not a description of types")
	}
	field := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(description[at:])) }
	section := func(at int) []byte {
		from := field(4) + field(at) // behind the header
		to := from + field(at+4)
		if to > uint64(len(description)) {
			return nil
		}
		return description[from:to]
	}
	types, names = section(8), section(16)
	if types == nil || names == nil {
		return nil, nil, errors.New("cannot parse the types of the kernel: cut off")
	}
	return types, names, nil
}

// nameOffset returns where a name stands among names, 0 for nowhere. Each name is there once.
func nameOffset(names []byte, name string) uint32 {
	return uint32(bytes.Index(names, []byte("\x00"+name+"\x00")) + 1)
}

// typeTail returns how many bytes follow a type of a kind, false for kinds that are not known.
func typeTail(kind uint32, count int) (int, bool) {
	switch kind {
	case 2, 7, 8, 9, 10, 11, kindFunc, 16, 18: // pointer, forward, typedef, volatile, const, restrict, float, tag of a type
		return 0, true
	case 1, 14, 17: // integer, variable, tag of a declaration
		return 4, true
	case 3: // array
		return 12, true
	case kindStruct, 5, 15, 19: // union, section, enumeration of 64 bits
		return count * memberLen, true
	case 6, 13: // enumeration, prototype of a function
		return count * 8, true
	}
	return 0, false
}
