// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Trust says to whom a Client sends anything at all. The agent's port is an unprivileged one: while the agent is down any
// user of the host can listen there, and would be sent the token. So each connection is looked at once, when it is made and
// before anything goes out over it: it must lead to this host, and to a process of root, of hostagent's own user or of one
// of Users. Verified TLS proves the second by itself, and who listens on a unix socket is told by the socket.
//
// The functions are called by several goroutines.
type Trust struct {
	// Users returns the users whose process the agent may be, beside root and hostagent's own; nil: no others.
	Users func() []uint32
	// AllowRemote lets the agent be at an address of another host. Whose process answers there is not to be known.
	AllowRemote bool
	// IsLocal tells whether the other end of a TCP connection is at an address of this host.
	IsLocal func(local, remote netip.Addr) (bool, error)
	// PeerUID tells who is at the other end of a TCP connection of this host, of several the first who is not trusted, and
	// waits until that is known or ctx ends. Known is false where it is no process of this host's network namespace.
	PeerUID func(ctx context.Context, local, remote netip.AddrPort, trusted func(uid uint32) bool) (uid uint32, known bool, err error)
}

// rootUID is the user who may do everything anyhow.
const rootUID = 0

// trusted tells whether the agent may be a process of that user.
func (t *Trust) trusted(uid uint32) bool {
	return uid == rootUID || int(uid) == os.Geteuid() || t.Users != nil && slices.Contains(t.Users(), uid)
}

// guard lets dial return connections only that may be used. Proven tells that TLS will prove who answers. The dialling has
// a deadline of its own: http.Transport goes on with it when the request that asked for it has ended.
func (t *Trust) guard(dial dialFunc, address string, proven bool, timeout time.Duration) dialFunc {
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := dial(ctx, network, to)
		if err != nil {
			return nil, err
		}
		switch c := conn.(type) {
		case *net.UnixConn:
			err = t.checkUnix(c, address)
		case *net.TCPConn:
			err = t.checkTCP(ctx, c, address, proven)
		default:
			err = fmt.Errorf("cannot tell whose process answers at %s", address)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

func (t *Trust) checkTCP(ctx context.Context, c *net.TCPConn, address string, proven bool) error {
	local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	here, err := t.IsLocal(local.Addr(), remote.Addr())
	switch {
	case err != nil:
		return err
	case !here && t.AllowRemote, here && proven:
		return nil
	case !here:
		return &Error{
			Kind: KindNotLocal, Err: fmt.Errorf("%s is at %v, which is no address of this host", address, remote.Addr().Unmap()),
			Fix: "name this host's own agent in consul { address }; if an agent of another host is meant, or one in a container on a bridge " +
				"of this host, set consul { allow_remote_agent = true }, and use https:// so that the token does not cross the network in the clear",
		}
	}
	uid, known, err := t.PeerUID(ctx, local, remote, t.trusted)
	switch {
	case err != nil:
		return err
	case !known:
		return &Error{
			Kind: KindImpostor, Err: fmt.Errorf("no process of this host's network namespace is at the other end of %s, as where "+
				"a nat rule leads into a container, so that nobody can tell whose it is", address),
			Fix: "use https:// or unix:// in consul { address }, or the container's own address there and consul { allow_remote_agent = true }",
		}
	case !t.trusted(uid):
		return t.impostor(uid, address, fmt.Sprintf("ss -ltnp sport = :%d", remote.Port()))
	}
	return nil
}

// checkUnix looks at who listens: the kernel noted the effective user when he called listen(2) (unix_listen and
// copy_peercred in net/unix/af_unix.c), whoever accepts.
func (t *Trust) checkUnix(c *net.UnixConn, address string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var listener *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		listener, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return fmt.Errorf("cannot find out who listens on %s: %w", address, failed)
	case !t.trusted(listener.Uid):
		return t.impostor(listener.Uid, address, "ss -lxp src "+strings.TrimPrefix(address, "unix://"))
	}
	return nil
}

// impostor is the error of somebody else at the agent's address; show is a command that names the process.
func (t *Trust) impostor(uid uint32, address, show string) error {
	may := []string{"root"}
	if own := os.Geteuid(); own != rootUID {
		may = append(may, nameUser(uint32(own)))
	}
	if t.Users != nil {
		for _, other := range t.Users() {
			may = append(may, nameUser(other))
		}
	}
	return &Error{
		Kind: KindImpostor,
		Err:  fmt.Errorf("%s listens at %s, where only %s may", nameUser(uid), address, strings.Join(may, " or ")),
		Fix: fmt.Sprintf("if that is the Consul agent, set consul { user = %q } or --consul-user; if not, end it (%s names it) and start Consul",
			cmp.Or(userName(uid), strconv.FormatUint(uint64(uid), 10)), show),
	}
}

// nameUser writes "user alice (uid 1000)", or "uid 1000" of one without a name.
func nameUser(uid uint32) string {
	if name := userName(uid); name != "" {
		return fmt.Sprintf("user %s (uid %d)", name, uid)
	}
	return fmt.Sprintf("uid %d", uid)
}

// userName is a user's name, "" of one without.
func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return ""
}
