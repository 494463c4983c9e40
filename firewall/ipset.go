// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The sets, one for both families, and the one that new contents are gathered in before they are swapped in.
const (
	guardSet = "hostagent-guard"
	openSet  = "hostagent-open"
	cutSet   = "hostagent-cut"
	fillSet  = "hostagent-tmp"
)

const (
	portSetType = "bitmap:port"
	// rangesPerMessage keeps a request under 41 KiB: a nested attribute's length has 16 bits, so 64 KiB is the end.
	rangesPerMessage = 2000
)

// ipset is one set as the kernel shows it.
type ipset struct {
	name       string
	typeName   string
	first      uint16 // the range of a bitmap:port
	last       uint16
	timeout    bool // members expire
	references uint32
	ports      PortSet
}

// ours tells whether s is the kind of set that we make: every port has a place in it and stays there.
func (s *ipset) ours() bool {
	return s.typeName == portSetType && s.first == 0 && s.last == 65535 && !s.timeout
}

// kind describes s's type for an error.
func (s *ipset) kind() string {
	if s.typeName != portSetType {
		return oneLine(s.typeName)
	}
	text := fmt.Sprintf("%s range %d-%d", s.typeName, s.first, s.last)
	if s.timeout {
		text += " timeout"
	}
	return text
}

// ipsetRequest sends one ipset command. The requests are made here and not with netlink's Ipset functions, because those
// panic on an error that is no errno, write to the standard logger, and cannot add to or delete from a bitmap:port.
func ipsetRequest(command, flags int, attributes ...*nl.RtAttr) ([][]byte, error) {
	r := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_IPSET<<8, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	for _, a := range attributes {
		r.AddData(a)
	}
	answer, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err == nil {
		return answer, nil
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, ErrPermission
	case errors.As(err, &errno) && errno >= nl.IPSET_ERR_PRIVATE:
		return nil, nl.IPSetError(errno)
	}
	return nil, err
}

func setName(name string) *nl.RtAttr {
	return nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(name))
}

// probeSets tells whether the kernel can do sets and we may change them. The kernel loads ip_set by itself for it.
func probeSets() error {
	_, err := ipsetRequest(nl.IPSET_CMD_PROTOCOL, nl.GetIpsetFlags(nl.IPSET_CMD_PROTOCOL))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPermission):
		return fmt.Errorf("cannot reach ipset: %w", err)
	}
	return fmt.Errorf("cannot reach ipset: kernel module ip_set %w (modprobe ip_set): %w", ErrMissingTool, err)
}

// createSet makes an empty set; it fails where one of that name exists.
func createSet(name string) error {
	everyPort := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	everyPort.AddRtAttr(nl.IPSET_ATTR_PORT_FROM|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint16Attr(0))
	everyPort.AddRtAttr(nl.IPSET_ATTR_PORT_TO|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint16Attr(65535))
	_, err := ipsetRequest(nl.IPSET_CMD_CREATE, nl.GetIpsetFlags(nl.IPSET_CMD_CREATE)|unix.NLM_F_EXCL,
		setName(name),
		nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(portSetType)),
		nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nl.Uint8Attr(0)),
		nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(unix.AF_UNSPEC)),
		everyPort)
	if errors.Is(err, nl.IPSetError(nl.IPSET_ERR_FIND_TYPE)) {
		err = fmt.Errorf("kernel module ip_set_bitmap_port %w (modprobe ip_set_bitmap_port): %w", ErrMissingTool, err)
	}
	if err != nil {
		return fmt.Errorf("cannot create set %q: %w", name, err)
	}
	return nil
}

// whileBusy repeats a request on a set that is in use, for a second: nf_tables lets go of a deleted rule's sets a moment
// later, and somebody's listing holds a set while it lasts.
func whileBusy(request func() error) error {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := request()
		busy := errors.Is(err, unix.EBUSY) || errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY))
		if !busy || time.Now().After(deadline) {
			return err
		}
	}
}

// destroySet removes a set. Where there is none, it says so and is content. NLM_F_EXCL makes the kernel say so.
func destroySet(name string) (existed bool, err error) {
	err = whileBusy(func() error {
		_, err := ipsetRequest(nl.IPSET_CMD_DESTROY, nl.GetIpsetFlags(nl.IPSET_CMD_DESTROY)|unix.NLM_F_EXCL, setName(name))
		return err
	})
	switch {
	case errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)):
		return true, fmt.Errorf("cannot destroy set %q: %w (a rule that is not hostagent's names it: delete that rule first)",
			name, err)
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return true, fmt.Errorf("cannot destroy set %q: %w", name, err)
}

// readSet returns the set of that name, or nil where there is none.
func readSet(name string) (*ipset, error) {
	answer, err := ipsetRequest(nl.IPSET_CMD_LIST, nl.GetIpsetFlags(nl.IPSET_CMD_LIST), setName(name))
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot list set %q: %w", name, err)
	}
	set := &ipset{name: name}
	for _, message := range answer {
		set.parse(message)
	}
	return set, nil
}

// parse adds what one message of a listing says; a big set comes in several.
func (s *ipset) parse(message []byte) {
	if len(message) < nl.SizeofNfgenmsg {
		return
	}
	for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.IPSET_ATTR_TYPENAME:
			s.typeName = unix.ByteSliceToString(value)
		case nl.IPSET_ATTR_DATA:
			s.parseHeader(value)
		case nl.IPSET_ATTR_ADT:
			for _, member := range attributes(value) {
				for kind, value := range attributes(member) {
					if kind == nl.IPSET_ATTR_PORT && len(value) >= 2 {
						s.ports.Add(binary.BigEndian.Uint16(value))
					}
				}
			}
		}
	}
}

func (s *ipset) parseHeader(data []byte) {
	for kind, value := range attributes(data) {
		switch {
		case kind == nl.IPSET_ATTR_PORT_FROM && len(value) >= 2:
			s.first = binary.BigEndian.Uint16(value)
		case kind == nl.IPSET_ATTR_PORT_TO && len(value) >= 2:
			s.last = binary.BigEndian.Uint16(value)
		case kind == nl.IPSET_ATTR_TIMEOUT:
			s.timeout = true
		case kind == nl.IPSET_ATTR_REFERENCES && len(value) >= 4:
			s.references = binary.BigEndian.Uint32(value)
		}
	}
}

// attributes yields the netlink attributes in data, without their flags; it ends at the first that does not fit.
func attributes(data []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(data))
			if size < unix.SizeofNlAttr || size > len(data) {
				return
			}
			kind := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, data[unix.SizeofNlAttr:size]) {
				return
			}
			data = data[min((size+3)&^3, len(data)):]
		}
	}
}

// changeMembers adds ports to a set (nl.IPSET_CMD_ADD) or deletes them (nl.IPSET_CMD_DEL). Ports that are there already,
// or gone already, do no harm: without NLM_F_EXCL the kernel skips them.
func changeMembers(command int, name string, ports *PortSet) error {
	var members []byte
	send := func() error {
		_, err := ipsetRequest(command, nl.GetIpsetFlags(command), setName(name),
			nl.NewRtAttr(nl.IPSET_ATTR_LINENO|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(0)),
			nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), members))
		if err != nil {
			return fmt.Errorf("cannot change the ports of set %q: %w", name, err)
		}
		return nil
	}
	count := 0
	for first, last := range ports.ranges() {
		members = appendRange(members, first, last)
		if count++; count%rangesPerMessage == 0 {
			if err := send(); err != nil {
				return err
			}
			members = members[:0]
		}
	}
	if len(members) == 0 {
		return nil
	}
	return send()
}

// appendRange appends one IPSET_ATTR_DATA with the ports first to last: a bitmap:port takes a range as one member.
func appendRange(b []byte, first, last uint16) []byte {
	b = binary.NativeEndian.AppendUint16(b, 20)
	b = binary.NativeEndian.AppendUint16(b, nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED)
	for i, port := range []uint16{first, last} {
		b = binary.NativeEndian.AppendUint16(b, 6)
		b = binary.NativeEndian.AppendUint16(b, uint16(nl.IPSET_ATTR_PORT_FROM+i)|unix.NLA_F_NET_BYTEORDER)
		b = binary.BigEndian.AppendUint16(b, port)
		b = append(b, 0, 0)
	}
	return b
}

// replaceMembers gives a set exactly these ports at one instant: they are gathered in a set of their own, which is swapped
// in. Flush and refill would let half of all packets see a set that is neither the old nor the new one.
func replaceMembers(name string, ports *PortSet) error {
	err := createSet(fillSet)
	if errors.Is(err, unix.EEXIST) { // left behind by a crash
		if _, err = destroySet(fillSet); err == nil {
			err = createSet(fillSet)
		}
	}
	if err != nil {
		return err
	}
	if err = changeMembers(nl.IPSET_CMD_ADD, fillSet, ports); err == nil {
		err = whileBusy(func() error {
			_, err := ipsetRequest(nl.IPSET_CMD_SWAP, nl.GetIpsetFlags(nl.IPSET_CMD_SWAP), setName(fillSet),
				nl.NewRtAttr(nl.IPSET_ATTR_SETNAME2, nl.ZeroTerminated(name)))
			return err
		})
		if err != nil {
			err = fmt.Errorf("cannot swap set %q in: %w", name, err)
		}
	}
	_, destroyErr := destroySet(fillSet)
	return errors.Join(err, destroyErr)
}

// checkOurs refuses a set of our name that is not the kind of set that we make.
func checkOurs(set *ipset) error {
	if set == nil || set.ours() {
		return nil
	}
	return fmt.Errorf("cannot use set %q: %w: it is a %s where a %s range 0-65535 belongs "+
		"(ipset destroy %s, or hostagent firewall remove)", set.name, ErrForeignSet, set.kind(), portSetType, set.name)
}

// ourSets are the names of the sets in the order in which they are made and shown.
func ourSets() []string { return []string{guardSet, openSet, cutSet} }
