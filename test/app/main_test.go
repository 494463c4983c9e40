// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for address, want := range map[string][2]string{
		"127.0.0.1:80":         {"tcp4", "127.0.0.1:80"},
		"tcp:0.0.0.0:80":       {"tcp4", "0.0.0.0:80"},
		"mptcp:0.0.0.0:80":     {"tcp4", "0.0.0.0:80"},
		"[::]:80":              {"tcp", "[::]:80"},
		"[::1]:80":             {"tcp6", "[::1]:80"},
		"udp:0.0.0.0:21007":    {"udp4", "0.0.0.0:21007"},
		"udp:[::]:21007":       {"udp", "[::]:21007"},
		"localhost:80":         {},
		"sctp:127.0.0.1:80":    {},
		"tcp:udp:127.0.0.1:80": {},
		"127.0.0.1:65536":      {},
		"":                     {},
	} {
		network, hostPort, err := parse(address)
		if diff := cmp.Diff(want, [2]string{network, hostPort}); diff != "" || (err != nil) != (want == [2]string{}) {
			t.Errorf("%q: %v (-want +got):\n%s", address, err, diff)
		}
	}
}

func TestAnswerGreetsAndEchoes(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { answer(theirs, "hello from web\n"); close(done) }()
	lines := bufio.NewReader(ours)
	go io.WriteString(ours, "one\ntwo\n")
	for _, want := range []string{"hello from web\n", "one\n", "two\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("line %q, %v; want %q", got, err, want)
		}
	}
	ours.Close()
	<-done
}

func TestServePackets(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- servePackets(server, "hello from web\n") }()
	client, err := net.Dial("udp4", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := client.Read(buffer)
	if err != nil || string(buffer[:n]) != "hello from web\nx" {
		t.Errorf("reply %q, %v", buffer[:n], err)
	}
	server.Close()
	if err := <-done; err == nil {
		t.Error("served on after the socket had closed")
	}
}

func TestRunRefuses(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, addresses := range map[string][]string{
		"no address":        nil,
		"a wrong address":   {"nowhere"},
		"an address in use": {"127.0.0.1:0", taken.Addr().String()},
	} {
		var out strings.Builder
		if err := run("web", addresses, &out, answer); err == nil || out.Len() > 0 {
			t.Errorf("%s: %v, printed %q; want an error and no ready", name, err, out.String())
		}
	}
}
