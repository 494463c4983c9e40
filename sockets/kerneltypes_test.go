// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/netns"
)

// describeTypes builds a description of types as the kernel does, with a name section in which "first" is the first name.
type describeTypes struct{ types, names []byte }

func (d *describeTypes) name(name string) uint32 {
	if at := nameOffset(d.names, name); at != 0 {
		return at
	}
	if len(d.names) == 0 {
		d.names = []byte{0}
	}
	at := len(d.names)
	d.names = append(append(d.names, name...), 0)
	return uint32(at)
}

func (d *describeTypes) add(name string, kind uint32, words ...uint32) {
	count := uint32(len(words) / 3)
	if kind == 0x80000000|kindStruct {
		kind, count = kindStruct, count|0x80000000
	}
	for _, word := range append([]uint32{d.name(name), kind<<24 | count, 0}, words...) {
		d.types = binary.NativeEndian.AppendUint32(d.types, word)
	}
}

func (d *describeTypes) bytes() []byte {
	native := binary.NativeEndian
	b := native.AppendUint16(nil, typesMagic)
	b = append(b, 1, 0)
	for _, word := range []int{typesHeaderLen, 0, len(d.types), len(d.types), len(d.names)} {
		b = native.AppendUint32(b, uint32(word))
	}
	return append(append(b, d.types...), d.names...)
}

// someTypes are a kernel's, in short.
func someTypes() *describeTypes {
	d := &describeTypes{}
	member := func(name string, bits uint32) []uint32 { return []uint32{d.name(name), 1, bits} }
	join := func(members ...[]uint32) (all []uint32) {
		for _, m := range members {
			all = append(all, m...)
		}
		return all
	}
	d.add("task_struct", 0x80000000|kindStruct, join(member("pid", 8*4), member("tgid", 32<<24|8*12))...)
	d.add("file", kindStruct, member("f_inode", 8*40)...)
	d.add("inode", kindStruct, member("i_ino", 8*64)...)
	d.add("socket", 5, join(member("state", 8*99), member("sk", 8*99))...) // a union of that name
	d.add("socket", kindStruct, join(member("state", 0), member("sk", 8*24))...)
	d.add("sock_common", kindStruct, join(member("skc_family", 8*16), member("skc_state", 8*18))...)
	d.add("bpf_iter_task", kindFunc)
	d.add("bpf_iter_task_file", kindFunc)
	return d
}

func TestParseTypes(t *testing.T) {
	got, err := parseTypes(someTypes().bytes())
	check(t, err)
	want := &iteratorTypes{iterator: 8, taskGroup: 12, fileInode: 40, inodeNumber: 64, socketState: 0, socketSock: 24, sockFamily: 16, sockState: 18}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(iteratorTypes{})); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	whole := someTypes()
	unknownKind := someTypes()
	unknownKind.types[7] = 0x1f
	cutMember := someTypes()
	cutMember.types = cutMember.types[:typeLen+memberLen] // of the two members of the first
	missing := &describeTypes{}
	missing.add("bpf_iter_task_file", kindFunc)
	for name, description := range map[string][]byte{
		"nothing":      nil,
		"not types":    make([]byte, 100),
		"cut off":      whole.bytes()[:len(whole.bytes())-1],
		"unknown kind": unknownKind.bytes(),
		"member cut":   cutMember.bytes(),
		"not all":      missing.bytes(),
	} {
		if got, err := parseTypes(description); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// TestKernelTypes reads those of this kernel, where it has any.
func TestKernelTypes(t *testing.T) {
	types, err := kernelTypes()
	if errors.Is(err, fs.ErrNotExist) {
		netns.Lacking(t, "a kernel that describes its types")
	}
	check(t, err)
	if !types.whole() || types.sockState == types.sockFamily || types.socketSock == types.socketState {
		t.Errorf("got %+v", types)
	}
}

func FuzzParseTypes(f *testing.F) {
	f.Add(someTypes().bytes())
	f.Add(someTypes().bytes()[:60])
	f.Fuzz(func(t *testing.T, description []byte) {
		types, err := parseTypes(description)
		if (err == nil) != (types != nil) || err == nil && !types.whole() {
			t.Errorf("got %+v, %v", types, err)
		}
	})
}
