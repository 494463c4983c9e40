// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// generation tells cheaply whether rules may have changed: two equal ones mean that nft rules have not, and that legacy
// tables have at least as many rules of the same size. The zero value is unknown.
type generation struct {
	known  bool
	nft    uint32
	legacy [4]tableSize
}

type tableSize struct{ entries, bytes uint32 }

// readGeneration reads the generation of a variant's rules. What cannot be read is unknown, so that rules are listed.
func readGeneration(variant Variant, families []Family) generation {
	if variant == VariantNFT {
		id, err := nftGeneration()
		return generation{known: err == nil, nft: id}
	}
	g := generation{known: true}
	for i, family := range families {
		for j, table := range ourTables() {
			size, err := legacySize(family, table)
			if err != nil {
				return generation{}
			}
			g.legacy[2*i+j] = size
		}
	}
	return g
}

// nftGeneration asks nf_tables for the number that every change of its rules, whoever makes it, counts up. It takes 3 µs
// where listing the rules takes milliseconds.
func nftGeneration() (uint32, error) {
	answer, err := uninterrupted(func() ([][]byte, error) {
		r := nl.NewNetlinkRequest(unix.NFT_MSG_GETGEN|unix.NFNL_SUBSYS_NFTABLES<<8, unix.NLM_F_REQUEST)
		r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
		return r.Execute(unix.NETLINK_NETFILTER, 0)
	})
	if errors.Is(err, unix.EPERM) {
		err = ErrPermission
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the nf_tables generation: %w", err)
	}
	for _, message := range answer {
		if len(message) < nl.SizeofNfgenmsg {
			continue
		}
		for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
			if kind == unix.NFTA_GEN_ID && len(value) >= 4 {
				return binary.BigEndian.Uint32(value), nil
			}
		}
	}
	return 0, errors.New("cannot read the nf_tables generation: the kernel's answer has none")
}

// legacyInfo is struct ipt_getinfo and struct ip6t_getinfo, which are alike.
type legacyInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32
}

// legacySize asks for the size of a legacy table with getsockopt IPT_SO_GET_INFO. Any IP socket will do for it, so a
// datagram one is used: a raw one would need CAP_NET_RAW as well.
func legacySize(family Family, table string) (tableSize, error) {
	const getInfo = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO
	domain, level := unix.AF_INET, unix.SOL_IP
	if family == IPv6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return tableSize{}, fmt.Errorf("cannot open a socket for table %s: %w", table, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	info := &legacyInfo{}
	copy(info.name[:len(info.name)-1], table)
	size := uint32(unsafe.Sizeof(*info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return tableSize{}, fmt.Errorf("cannot read the size of table %s: %w", table, errno)
	}
	return tableSize{info.entries, info.size}, nil
}
