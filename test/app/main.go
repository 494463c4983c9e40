// SPDX-License-Identifier: MPL-2.0

// Command app is the application behind a sidecar in the end-to-end tests and in the demo: it listens where it is told
// and says hello, so that whoever reads the hello has proof of having reached the application itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
)

func main() {
	name := flag.String("name", "app", "name in the greeting")
	var addresses []string
	record := flag.Bool("record", false, "say nothing, and write what comes, quoted, to standard output")
	flag.Func("listen", "address to listen on, [tcp:|mptcp:|udp:]IP:PORT or unix:PATH; may be given several times", func(s string) error {
		addresses = append(addresses, s)
		return nil
	})
	flag.Parse()
	reply := answer
	if *record {
		reply = func(conn net.Conn, _ string) { recordTo(os.Stdout, conn) }
	}
	if err := run(*name, addresses, os.Stdout, reply); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// run listens on every address, writes one line "ready" to out once it does, and serves until a listener fails.
func run(name string, addresses []string, out io.Writer, reply func(net.Conn, string)) error {
	if len(addresses) == 0 {
		return errors.New("cannot start without an address: give at least one -listen")
	}
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		if err := listen(name, address, failed, reply); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "ready")
	return <-failed
}

// listen opens one address and serves it in the background; what ends the serving is sent to failed.
func listen(name, address string, failed chan<- error, reply func(net.Conn, string)) error {
	if path, found := strings.CutPrefix(address, "unix:"); found {
		connections, err := net.Listen("unix", path)
		if err != nil {
			return fmt.Errorf("cannot listen on %q: %w", address, err)
		}
		go func() { failed <- serve(connections, "hello from "+name+"\n", reply) }()
		return nil
	}
	network, hostPort, err := parse(address)
	if err != nil {
		return err
	}
	greeting := "hello from " + name + "\n"
	var config net.ListenConfig
	if strings.HasPrefix(network, "udp") {
		packets, err := config.ListenPacket(context.Background(), network, hostPort)
		if err != nil {
			return fmt.Errorf("cannot listen on %q: %w", address, err)
		}
		go func() { failed <- servePackets(packets, greeting) }()
		return nil
	}
	// Go asks for multipath TCP unless told otherwise. Most programs do not, and the kernel shows the two differently.
	config.SetMultipathTCP(strings.HasPrefix(address, "mptcp:"))
	connections, err := config.Listen(context.Background(), network, hostPort)
	if err != nil {
		return fmt.Errorf("cannot listen on %q: %w", address, err)
	}
	go func() { failed <- serve(connections, greeting, reply) }()
	return nil
}

// parse splits an address into Go's network name and IP:PORT. Go would make a dual-stack [::] socket of "tcp" and
// 0.0.0.0, where a test that asks for 0.0.0.0 wants IPv4 only; [::] stays dual stack, as it is in most languages.
func parse(address string) (network, hostPort string, err error) {
	network, hostPort = "tcp", address
	for _, prefix := range []string{"tcp", "mptcp", "udp"} {
		if rest, found := strings.CutPrefix(address, prefix+":"); found {
			network, hostPort = strings.TrimPrefix(prefix, "mp"), rest
		}
	}
	at, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return "", "", fmt.Errorf("cannot understand address %q: %w (want [tcp:|mptcp:|udp:]IP:PORT)", address, err)
	}
	switch {
	case at.Addr().Is4():
		network += "4"
	case at.Addr() != netip.IPv6Unspecified():
		network += "6"
	}
	return network, hostPort, nil
}

func serve(connections net.Listener, greeting string, reply func(net.Conn, string)) error {
	for {
		conn, err := connections.Accept()
		if err != nil {
			return fmt.Errorf("cannot accept on %s: %w", connections.Addr(), err)
		}
		go reply(conn, greeting)
	}
}

// answer greets, then sends back whatever comes until the other side closes.
func answer(conn net.Conn, greeting string) {
	defer conn.Close()
	if _, err := io.WriteString(conn, greeting); err != nil {
		return // the other side has gone: nothing is lost
	}
	_, _ = io.Copy(conn, conn)
}

// recordTo writes that a connection came, and the first that comes over it, and hangs up.
func recordTo(out io.Writer, conn net.Conn) {
	defer conn.Close()
	fmt.Fprintln(out, "connection")
	buffer := make([]byte, 64<<10)
	if n, _ := conn.Read(buffer); n > 0 {
		fmt.Fprintf(out, "received %q\n", buffer[:n])
	}
}

func servePackets(packets net.PacketConn, greeting string) error {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("cannot read on %s: %w", packets.LocalAddr(), err)
		}
		// A reply that cannot be sent is lost, as datagrams are.
		_, _ = packets.WriteTo(append([]byte(greeting), buffer[:n]...), from)
	}
}
