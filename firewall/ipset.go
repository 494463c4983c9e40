// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The sets of ports, one for both families; the sets of sources, one for each, of what is open and of exposed paths; and the one that new contents are gathered
// in before they are swapped in.
const (
	guardSet = "hostagent-guard"
	openSet  = "hostagent-open"
	cutSet   = "hostagent-cut"
	from4Set = "hostagent-from4"
	from6Set = "hostagent-from6"
	fillSet  = "hostagent-tmp"

	pathsSet  = "hostagent-paths"
	paths4Set = "hostagent-paths4"
	paths6Set = "hostagent-paths6"
)

const (
	portSetType = "bitmap:port"
	fromSetType = "hash:net"
	// maxMembers is how many bytes of members one request holds, or one member more: a nested attribute's length has
	// 16 bits, so 64 KiB is the end.
	maxMembers = 40000
	// maxSources is how many sources a hash:net takes by default.
	maxSources = 65536
)

// ipset is one set as the kernel shows it.
type ipset struct {
	name       string
	typeName   string
	family     uint8  // of a hash:net: unix.AF_INET or AF_INET6
	first      uint16 // the range of a bitmap:port
	last       uint16
	timeout    bool // members expire
	references uint32
	ports      PortSet
	sources    []netip.Prefix // of a hash:net, in no order
	excepted   bool           // the hash:net has members that it does not match ("nomatch")
}

// kind describes s's type in the words of ipset save, as far as it matters here.
func (s *ipset) kind() string {
	text := oneLine(s.typeName)
	switch s.typeName {
	case portSetType:
		text += fmt.Sprintf(" range %d-%d", s.first, s.last)
	case fromSetType:
		if s.family == unix.AF_INET6 {
			text += " family inet6"
		} else {
			text += " family inet"
		}
	default:
		return text
	}
	if s.timeout {
		text += " timeout"
	}
	return text
}

// kindOf is the kind of set that we make under a name: every port, or every source of the family, has a place in it and
// stays there.
func kindOf(name string) string {
	switch name {
	case from4Set, paths4Set:
		return fromSetType + " family inet"
	case from6Set, paths6Set:
		return fromSetType + " family inet6"
	}
	return portSetType + " range 0-65535"
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

// uninterrupted repeats a request that changes nothing, where a signal cut it short, or a change of what it lists: netlink
// then returns ErrDumpInterrupted beside a part, which must not be taken for the whole.
func uninterrupted(request func() ([][]byte, error)) ([][]byte, error) {
	const tries = 5
	for try := 1; ; try++ {
		answer, err := request()
		switch again := errors.Is(err, nl.ErrDumpInterrupted) || errors.Is(err, unix.EINTR); {
		case !again:
			return answer, err
		case try == tries:
			return nil, fmt.Errorf("%w %d times (find out which program changes it all the time)", err, tries)
		}
	}
}

func setName(name string) *nl.RtAttr {
	return nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(name))
}

// probeSets tells whether the kernel can do sets and we may change them. The kernel loads ip_set by itself for it.
func probeSets() error {
	_, err := ipsetRequest(nl.IPSET_CMD_PROTOCOL, nl.GetIpsetFlags(nl.IPSET_CMD_PROTOCOL))
	return probeError(err)
}

// probeError says what mends what ipset answered to a probe.
func probeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPermission):
		return fmt.Errorf("cannot reach ipset: %w", err)
	}
	return fmt.Errorf("cannot reach ipset: kernel module ip_set %w (modprobe ip_set): %w", ErrMissingTool, err)
}

// createSet makes an empty set of the kind that belongs under the name purpose; it fails where one of that name exists. A
// hash:net that knows how many members will come takes 10,000 of them in a third of the time.
func createSet(name, purpose string, members int) error {
	const leastBuckets = 1024 // the kernel's default
	typeName, module, family := portSetType, "ip_set_bitmap_port", uint8(unix.AF_UNSPEC)
	options := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	switch purpose {
	case from4Set, from6Set, paths4Set, paths6Set:
		typeName, module, family = fromSetType, "ip_set_hash_net", unix.AF_INET
		if purpose == from6Set || purpose == paths6Set {
			family = unix.AF_INET6
		}
		buckets := uint32(max(members, leastBuckets))
		options.AddRtAttr(nl.IPSET_ATTR_HASHSIZE|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(buckets))
		options.AddRtAttr(nl.IPSET_ATTR_MAXELEM|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(maxSources))
	default:
		options.AddRtAttr(nl.IPSET_ATTR_PORT_FROM|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint16Attr(0))
		options.AddRtAttr(nl.IPSET_ATTR_PORT_TO|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint16Attr(65535))
	}
	_, err := ipsetRequest(nl.IPSET_CMD_CREATE, nl.GetIpsetFlags(nl.IPSET_CMD_CREATE)|unix.NLM_F_EXCL,
		setName(name),
		nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(typeName)),
		nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nl.Uint8Attr(0)),
		nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(family)),
		options)
	if errors.Is(err, nl.IPSetError(nl.IPSET_ERR_FIND_TYPE)) {
		err = fmt.Errorf("kernel module %s %w (modprobe %s): %w", module, ErrMissingTool, module, err)
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
	answer, err := uninterrupted(func() ([][]byte, error) {
		return ipsetRequest(nl.IPSET_CMD_LIST, nl.GetIpsetFlags(nl.IPSET_CMD_LIST), setName(name))
	})
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
		case nl.IPSET_ATTR_FAMILY:
			if len(value) > 0 {
				s.family = value[0]
			}
		case nl.IPSET_ATTR_DATA:
			s.parseHeader(value)
		case nl.IPSET_ATTR_ADT:
			for _, member := range attributes(value) {
				switch s.typeName {
				case portSetType:
					s.parsePort(member)
				case fromSetType:
					s.parseSource(member)
				}
			}
		}
	}
}

func (s *ipset) parsePort(member []byte) {
	for kind, value := range attributes(member) {
		if kind == nl.IPSET_ATTR_PORT && len(value) >= 2 {
			s.ports.Add(binary.BigEndian.Uint16(value))
		}
	}
}

func (s *ipset) parseSource(member []byte) {
	var address netip.Addr
	var bits int
	for kind, value := range attributes(member) {
		switch {
		case kind == nl.IPSET_ATTR_IP:
			for _, bytes := range attributes(value) {
				address, _ = netip.AddrFromSlice(bytes)
			}
		case kind == nl.IPSET_ATTR_CIDR && len(value) > 0:
			bits = int(value[0])
		case kind == nl.IPSET_ATTR_CADT_FLAGS && len(value) >= 4:
			s.excepted = s.excepted || binary.BigEndian.Uint32(value)&nl.IPSET_FLAG_NOMATCH != 0
		}
	}
	if source := netip.PrefixFrom(address, bits); source.IsValid() {
		s.sources = append(s.sources, source)
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
	members := memberRequest{command: command, set: name}
	for first, last := range ports.ranges() {
		members.data = appendRange(members.data, first, last)
		if err := members.sendAbove(maxMembers); err != nil {
			return err
		}
	}
	return members.sendAbove(0)
}

// addSources adds sources to a set of their family.
func addSources(name string, sources []netip.Prefix) error {
	members := memberRequest{command: nl.IPSET_CMD_ADD, set: name}
	for _, source := range sources {
		members.data = appendSource(members.data, source)
		if err := members.sendAbove(maxMembers); err != nil {
			return err
		}
	}
	return members.sendAbove(0)
}

// memberRequest gathers members that one request adds to a set or deletes from it.
type memberRequest struct {
	command int
	set     string
	data    []byte
}

// sendAbove sends the members gathered so far if they take more than size bytes.
func (m *memberRequest) sendAbove(size int) error {
	if len(m.data) <= size {
		return nil
	}
	_, err := ipsetRequest(m.command, nl.GetIpsetFlags(m.command), setName(m.set),
		nl.NewRtAttr(nl.IPSET_ATTR_LINENO|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(0)),
		nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), m.data))
	if err != nil {
		return fmt.Errorf("cannot change the members of set %q: %w", m.set, err)
	}
	m.data = m.data[:0]
	return nil
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

// appendSource appends one IPSET_ATTR_DATA with a source: its address, and how many bits of it count.
func appendSource(b []byte, source netip.Prefix) []byte {
	kind, address := nl.IPSET_ATTR_IPADDR_IPV4, source.Addr().AsSlice()
	if source.Addr().Is6() {
		kind = nl.IPSET_ATTR_IPADDR_IPV6
	}
	size := uint16(len(address))
	b = binary.NativeEndian.AppendUint16(b, size+20)
	b = binary.NativeEndian.AppendUint16(b, nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED)
	b = binary.NativeEndian.AppendUint16(b, size+8)
	b = binary.NativeEndian.AppendUint16(b, nl.IPSET_ATTR_IP|unix.NLA_F_NESTED)
	b = binary.NativeEndian.AppendUint16(b, size+4)
	b = binary.NativeEndian.AppendUint16(b, uint16(kind)|unix.NLA_F_NET_BYTEORDER)
	b = append(b, address...)
	b = binary.NativeEndian.AppendUint16(b, 5)
	b = binary.NativeEndian.AppendUint16(b, nl.IPSET_ATTR_CIDR)
	return append(b, uint8(source.Bits()), 0, 0, 0)
}

// replaceMembers gives a set exactly the members that fill adds, at one instant: they are gathered in fillSet, which is
// swapped in; members is about how many they are. Flush and refill would let half of all packets see a set that is neither the old nor the new one.
func replaceMembers(name string, members int, fill func() error) error {
	err := createSet(fillSet, name, members)
	if errors.Is(err, unix.EEXIST) { // left behind by a crash
		if _, err = destroySet(fillSet); err == nil {
			err = createSet(fillSet, name, members)
		}
	}
	if err != nil {
		return err
	}
	if err = fill(); err == nil {
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
	if set == nil || set.kind() == kindOf(set.name) {
		return nil
	}
	return fmt.Errorf("cannot use set %q: %w: it is a %s where a %s belongs (ipset destroy %s, or hostagent firewall remove)",
		set.name, ErrForeignSet, set.kind(), kindOf(set.name), set.name)
}

// ourSets are the names of the sets in the order in which they are made and shown.
func ourSets() []string {
	return []string{guardSet, openSet, cutSet, from4Set, from6Set, pathsSet, paths4Set, paths6Set}
}
