// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nftBatch is one transaction of nf_tables in the making: the kernel does all of it or nothing, at one instant. It is
// written here and not with the Conn of google/nftables, because that cannot set a table's flags, cannot make a
// transaction depend on the generation, and waits for answers without end.
type nftBatch struct {
	data []byte
	// what says for each message, the first and the last of the batch included, what it is about.
	what []string
	last int // where the last message begins
}

// newNFTBatch begins a transaction that fails with ERESTART unless the kernel's generation is the given one; 0 is any.
func newNFTBatch(generation uint32) *nftBatch {
	b := &nftBatch{}
	var attributes []byte
	if generation != 0 {
		attributes = appendUint32(nil, unix.NFNL_BATCH_GENID, generation)
	}
	b.add("batch", unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, attributes)
	return b
}

// empty tells whether b changes nothing.
func (b *nftBatch) empty() bool { return len(b.what) == 1 }

// add appends a message.
func (b *nftBatch) add(what string, kind, flags uint16, family uint8, resource uint16, attributes []byte) {
	b.last = len(b.data)
	b.what = append(b.what, what)
	b.data = binary.NativeEndian.AppendUint32(b.data, uint32(unix.NLMSG_HDRLEN+4+len(attributes)))
	b.data = binary.NativeEndian.AppendUint16(b.data, kind)
	b.data = binary.NativeEndian.AppendUint16(b.data, unix.NLM_F_REQUEST|flags)
	b.data = append(b.data, make([]byte, 8)...) // sequence number, see number; port
	b.data = append(b.data, family, unix.NFNETLINK_V0)
	b.data = binary.BigEndian.AppendUint16(b.data, resource)
	b.data = append(b.data, attributes...)
}

// command appends a command that changes our table.
func (b *nftBatch) command(what string, kind, flags uint16, attributes []byte) {
	b.add(what, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, unix.NFPROTO_INET, 0, attributes)
}

// finish ends the batch. Its last command asks for an answer, which comes when the transaction is over; failures are
// answered unasked.
func (b *nftBatch) finish(firstNumber uint32) {
	flags := b.data[b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	b.add("batch", unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	for at, number := 0, firstNumber; at < len(b.data); number++ {
		binary.NativeEndian.PutUint32(b.data[at+8:], number)
		at += int(binary.NativeEndian.Uint32(b.data[at:]))
	}
}

func (b *nftBatch) deleteTable() {
	b.command("table", unix.NFT_MSG_DELTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, nativeName))
}

// newTable makes the table, or gives the one that is there other flags.
func (b *nftBatch) newTable(flags uint32) {
	b.command("table", unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE,
		appendUint32(appendText(nil, unix.NFTA_TABLE_NAME, nativeName), unix.NFTA_TABLE_FLAGS, flags))
}

// newSet makes an empty set. The id, which tells sets of one batch apart, may be any that no other has.
func (b *nftBatch) newSet(s *nativeSet, id uint32) {
	// What nft notes about a set's keys, so that it lists them as what they are: 0 the order of their bytes, 2 big endian.
	notes := binary.NativeEndian.AppendUint32([]byte{0, 4}, 2)
	a := appendText(nil, unix.NFTA_SET_TABLE, nativeName)
	a = appendText(a, unix.NFTA_SET_NAME, s.name)
	a = appendUint32(a, unix.NFTA_SET_FLAGS, s.flags)
	a = appendUint32(a, unix.NFTA_SET_KEY_TYPE, s.keyType)
	a = appendUint32(a, unix.NFTA_SET_KEY_LEN, s.keySize)
	a = appendUint32(a, unix.NFTA_SET_ID, id)
	a = appendAttribute(a, unix.NFTA_SET_USERDATA, notes)
	b.command("set "+s.name, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a)
}

func (b *nftBatch) deleteSet(name string) {
	b.command("set "+name, unix.NFT_MSG_DELSET, 0, appendText(appendText(nil, unix.NFTA_SET_TABLE, nativeName), unix.NFTA_SET_NAME, name))
}

// elements adds members to a set or deletes them: ports, or runs of addresses by their first and the one behind their
// last. Both ends of a run are in one message.
func (b *nftBatch) elements(kind uint16, set string, ports *PortSet, runs []addressRun) {
	var list []byte
	send := func(above int) {
		if len(list) <= above {
			return
		}
		a := appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, nativeName)
		a = appendText(a, unix.NFTA_SET_ELEM_LIST_SET, set)
		a = appendAttribute(a, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
		flags := uint16(0)
		if kind == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		b.command("elements of set "+set, kind, flags, a)
		list = list[:0]
	}
	for port := range ports.All() {
		list = appendElement(list, binary.BigEndian.AppendUint16(nil, port), 0)
		send(maxMembers)
	}
	for _, run := range runs {
		list = appendElement(list, run.first.AsSlice(), 0)
		if behind := run.last.Next(); behind.IsValid() {
			list = appendElement(list, behind.AsSlice(), unix.NFT_SET_ELEM_INTERVAL_END)
		}
		send(maxMembers)
	}
	send(0)
}

func appendElement(b, key []byte, flags uint32) []byte {
	element := appendAttribute(nil, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, appendAttribute(nil, unix.NFTA_DATA_VALUE, key))
	if flags != 0 {
		element = appendUint32(element, unix.NFTA_SET_ELEM_FLAGS, flags)
	}
	return appendAttribute(b, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, element)
}

// newChain makes a base chain that lets go what its rules do not drop.
func (b *nftBatch) newChain(c *nativeChain) {
	hook := appendUint32(nil, unix.NFTA_HOOK_HOOKNUM, c.hook)
	hook = appendUint32(hook, unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
	a := appendText(nil, unix.NFTA_CHAIN_TABLE, nativeName)
	a = appendText(a, unix.NFTA_CHAIN_NAME, c.name)
	a = appendAttribute(a, unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, hook)
	a = appendUint32(a, unix.NFTA_CHAIN_POLICY, c.policy)
	a = appendText(a, unix.NFTA_CHAIN_TYPE, c.kind)
	b.command("chain "+c.name, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a)
}

func (b *nftBatch) deleteChain(name string) {
	b.command("chain "+name, unix.NFT_MSG_DELCHAIN, 0,
		appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, nativeName), unix.NFTA_CHAIN_NAME, name))
}

// flushChain deletes all rules of a chain.
func (b *nftBatch) flushChain(name string) {
	b.command("rules of chain "+name, unix.NFT_MSG_DELRULE, 0,
		appendText(appendText(nil, unix.NFTA_RULE_TABLE, nativeName), unix.NFTA_RULE_CHAIN, name))
}

// newRule appends a rule to a chain.
func (b *nftBatch) newRule(chain string, expressions []expr.Any) error {
	list, err := marshalExpressions(expressions)
	if err != nil {
		return err
	}
	a := appendText(nil, unix.NFTA_RULE_TABLE, nativeName)
	a = appendText(a, unix.NFTA_RULE_CHAIN, chain)
	a = appendAttribute(a, unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list)
	b.command("rule of chain "+chain, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, a)
	return nil
}

func marshalExpressions(expressions []expr.Any) ([]byte, error) {
	var list []byte
	for _, e := range expressions {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, fmt.Errorf("cannot encode a rule: %w", err)
		}
		list = appendAttribute(list, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, data)
	}
	return list, nil
}

// appendAttribute appends a netlink attribute with its padding. Values are at most maxMembers and one member long.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func appendUint32(b []byte, kind uint16, value uint32) []byte {
	return appendAttribute(b, kind, binary.BigEndian.AppendUint32(nil, value))
}

func appendText(b []byte, kind uint16, text string) []byte {
	return appendAttribute(b, kind, append([]byte(text), 0))
}

// nftSocket is what transactions go through. A table with the flag owner belongs to the socket that set it.
type nftSocket struct {
	fd     int
	port   uint32 // the kernel's name for it
	number uint32 // of the last message sent
	buffer int    // of the send buffer, in bytes, as far as it was asked for
}

// openNFTSocket opens a socket in the network namespace of the calling thread.
func openNFTSocket() (*nftSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	s := &nftSocket{fd: fd}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		// An answer to a failed message would otherwise repeat all of it. Kernels before 4.3 cannot, and then do.
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
		var name unix.Sockaddr
		if name, err = unix.Getsockname(fd); err == nil {
			if netlink, ok := name.(*unix.SockaddrNetlink); ok {
				s.port = netlink.Pid
			}
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	return s, nil
}

func (s *nftSocket) close() { _ = unix.Close(s.fd) }

// batchError is why the kernel did nothing of a batch: the first message that failed, and how.
type batchError struct {
	what  string
	errno syscall.Errno
}

func (e *batchError) Error() string { return e.what + ": " + e.errno.Error() }

func (e *batchError) Unwrap() error { return e.errno }

// errNoAnswer means that nobody knows whether a transaction was made.
var errNoAnswer = errors.New("the kernel's answer got lost")

// send makes a transaction. The kernel is done with it when the system call returns, and its answers are there.
func (s *nftSocket) send(b *nftBatch) error {
	first := s.number + 1
	b.finish(first)
	s.number += uint32(len(b.what))
	// The kernel takes a batch only whole, in one buffer. Beyond the limit for everybody that takes CAP_NET_ADMIN in the
	// initial user namespace; elsewhere as much as there is must do. The kernel doubles what it is given.
	if size := len(b.data); size > s.buffer {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
		}
		s.buffer = size
	}
	err := unix.Sendto(s.fd, b.data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("cannot send %d bytes at once: %w (run as root, or raise net.core.wmem_max)", len(b.data), err)
	}
	if err != nil {
		return fmt.Errorf("cannot send a transaction: %w", err)
	}
	return s.receive(b, first)
}

// receive reads the answers to a batch whose first message has the given number. Those to earlier ones are left out.
func (s *nftSocket) receive(b *nftBatch, first uint32) error {
	var failed *batchError
	failedAt, answered, lost := len(b.what), false, false
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(s.fd, buffer, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case errors.Is(err, unix.EAGAIN):
			switch {
			case failed != nil:
				return failed
			case lost || !answered:
				return errNoAnswer
			}
			return nil
		case err != nil:
			return fmt.Errorf("cannot receive the answer to a transaction: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			lost = true
		}
		for _, m := range messages {
			at := int64(m.Header.Seq) - int64(first)
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || at < 0 || at >= int64(len(b.what)) {
				continue
			}
			answered = true
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno != 0 && int(at) < failedAt {
				failed, failedAt = &batchError{b.what[at], errno}, int(at)
			}
		}
	}
}
