// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kinds of failure of Publish, to be told apart with errors.Is.
var (
	// ErrNoSet means that nf_tables has no set of that name.
	ErrNoSet = errors.New("no such set")
	// ErrWrongSet means that the set is none that ports can be kept in.
	ErrWrongSet = errors.New("not a plain set of ports")
	// ErrOwnedSet means that the set's table belongs to a running program, and nobody else may change it.
	ErrOwnedSet = errors.New("its table belongs to another program")
	// ErrFullSet means that the set has a size, and it is too small.
	ErrFullSet = errors.New("the set is full")
)

// SetName names a set of nf_tables: "inet", "filter", "mesh_ports". Family is inet, ip or ip6.
type SetName struct{ Family, Table, Set string }

// String writes n as nft does, "inet filter mesh_ports".
func (n SetName) String() string { return oneLine(n.Family + " " + n.Table + " " + n.Set) }

// family returns the number of n's family, 0 where it is none.
func (n SetName) family() uint8 {
	switch n.Family {
	case "inet":
		return unix.NFPROTO_INET
	case "ip":
		return unix.NFPROTO_IPV4
	case "ip6":
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_UNSPEC
}

// publishMemo is what the last call of Publish saw, good while the generation is the same.
type publishMemo struct {
	mu         sync.Mutex
	known      bool
	set        SetName
	open       PortSet
	generation uint32
}

// Publish makes the elements of a set of the operator's equal open and tells whether they had to be changed. The set exists
// already, with type inet_service, plain or with intervals; nothing but its elements is touched, in one transaction, so
// no packet ever sees less in it than was there before and is in open. A rule of the operator's that accepts what goes to
// ports of the set then lets in what hostagent opens, in a base chain that our own accept cannot help in.
//
// Exposed paths (Ruleset.Paths) do not belong into open: a rule that accepts what goes to ports of the set knows no sources.
//
// While nothing in nf_tables changes, the same call costs reading its generation. Errors are of the kinds ErrNoSet,
// ErrWrongSet, ErrOwnedSet, ErrFullSet and ErrPermission where they are one. Publish is independent of Apply.
func (f *Firewall) Publish(ctx context.Context, set SetName, open PortSet) (changed bool, err error) {
	f.publish.mu.Lock()
	defer f.publish.mu.Unlock()
	open.Remove(0)
	changed, err = f.publish.bring(ctx, set, &open)
	if err != nil {
		f.publish.known = false
		return changed, fmt.Errorf("cannot publish open ports in set %q: %w", set.String(), err)
	}
	return changed, nil
}

func (m *publishMemo) bring(ctx context.Context, set SetName, open *PortSet) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	generation, err := nftGeneration()
	switch {
	case err != nil:
		return false, nfError(err)
	case m.known && m.generation == generation && m.set == set && m.open == *open:
		return false, nil
	}
	m.known = false
	target, err := findSet(set)
	if err != nil {
		return false, err
	}
	if err := target.load(); err != nil {
		return false, nfError(err)
	}
	now := target.ports()
	if now == *open {
		// Known only if nobody was there between the two looks.
		if after, err := nftGeneration(); err == nil && after == generation {
			m.known, m.set, m.open, m.generation = true, set, *open, generation
		}
		return false, nil
	}
	err = writePorts(target, &now, open)
	return err == nil, err
}

// findSet reads the description of a set, and refuses one that is not made for ports.
func findSet(name SetName) (*nfSet, error) {
	create := fmt.Sprintf("nft add set %s '{ type inet_service; }'", name)
	table, err := nfGet(unix.NFT_MSG_GETTABLE, name.family(), nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(name.Table)))
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: there is no table %s %s; load the ruleset that has it, or make both: nft add table %[2]s %[3]s; %[4]s",
			ErrNoSet, oneLine(name.Family), oneLine(name.Table), create)
	} else if err != nil {
		return nil, err
	}
	s := &nfRuleset{tables: map[nfKey]*nfTable{}}
	s.addTable(name.family(), table)
	owner := s.tables[nfKey{name.family(), name.Table}]
	if owner == nil {
		return nil, errors.New("the kernel's answer names another table")
	}
	answer, err := nfGet(unix.NFT_MSG_GETSET, name.family(), nl.NewRtAttr(unix.NFTA_SET_TABLE, nl.ZeroTerminated(name.Table)),
		nl.NewRtAttr(unix.NFTA_SET_NAME, nl.ZeroTerminated(name.Set)))
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: make it, in the file of the ruleset too: %s", ErrNoSet, create)
	} else if err != nil {
		return nil, err
	}
	s.addSet(name.family(), answer)
	set := owner.sets[name.Set]
	switch {
	case set == nil:
		return nil, errors.New("the kernel's answer names another set")
	case owner.owner != 0:
		return nil, fmt.Errorf("%w: name a set of the host's own ruleset", ErrOwnedSet)
	}
	const inetService = 13 // of nft's own numbers for types
	const unfit = unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT | unix.NFT_SET_MAP | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL | nftSetObject
	if set.keyType != inetService || set.keyLength != 2 || len(set.fields) > 1 || set.flags&unfit != 0 {
		return nil, fmt.Errorf("%w: it must have type inet_service and no other flags than interval, such as: %s", ErrWrongSet, create)
	}
	return set, nil
}

const nftSetObject = 0x40

// nfGet asks nf_tables for one thing and returns its attributes.
func nfGet(command int, family uint8, attributes ...*nl.RtAttr) ([]byte, error) {
	r := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_NFTABLES<<8, unix.NLM_F_REQUEST)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	for _, a := range attributes {
		r.AddData(a)
	}
	answer, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, nfError(err)
	}
	if len(answer) == 0 || len(answer[0]) < nl.SizeofNfgenmsg {
		return nil, errors.New("the kernel gives no answer")
	}
	return answer[0][nl.SizeofNfgenmsg:], nil
}

// nfError gives an error of the kernel its kind, if it has one.
func nfError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return ErrPermission
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: give it a larger size, or none", ErrFullSet)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("somebody else changes the ruleset: %w", err)
	}
	return err
}

// ports returns what a set of ports holds.
func (s *nfSet) ports() PortSet {
	var ports PortSet
	for _, e := range s.elements {
		if len(e.key) == 2 && len(e.last) == 2 {
			ports.AddRange(binary.BigEndian.Uint16(e.key), binary.BigEndian.Uint16(e.last))
		}
	}
	return ports
}

// writePorts changes what a set holds in one transaction. A set of intervals is filled anew: parts of an interval cannot be
// deleted. Of others only what differs is touched, so that a set with a size need not hold the old and the new at once.
func writePorts(set *nfSet, now, open *PortSet) error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open netlink: %w", err)
	}
	target := &nftables.Set{Table: &nftables.Table{Family: nftables.TableFamily(set.table.family), Name: set.table.name}, Name: set.name,
		KeyType: nftables.TypeInetService}
	var added, removed []nftables.SetElement
	if set.flags&unix.NFT_SET_INTERVAL != 0 {
		connection.FlushSet(target)
		for first, last := range open.ranges() {
			added = append(added, portElement(first, false))
			if last < 0xffff { // one up to the last port has no end
				added = append(added, portElement(last+1, true))
			}
		}
	} else {
		gone, come := now.Minus(*open), open.Minus(*now)
		for port := range gone.All() {
			removed = append(removed, portElement(port, false))
		}
		for port := range come.All() {
			added = append(added, portElement(port, false))
		}
	}
	if err := inParts(target, removed, connection.SetDeleteElements); err != nil {
		return err
	}
	if err := inParts(target, added, connection.SetAddElements); err != nil {
		return err
	}
	return nfError(connection.Flush())
}

func portElement(port uint16, end bool) nftables.SetElement {
	return nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, port), IntervalEnd: end}
}

// inParts hands over as many elements at a time as one message holds: the length of a nested attribute has 16 bits.
func inParts(set *nftables.Set, elements []nftables.SetElement, change func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 1000
	for len(elements) > 0 {
		n := min(len(elements), most)
		if err := change(set, elements[:n]); err != nil {
			return fmt.Errorf("cannot write the elements: %w", err)
		}
		elements = elements[n:]
	}
	return nil
}
