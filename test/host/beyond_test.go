// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"testing"
	"time"
)

func TestBeyondIsReachedThroughTheHost(t *testing.T) {
	h := newHost(t)
	beyond, err := h.AddBeyond()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.AddBeyond(); err == nil {
		t.Error("a second network beyond: no error")
	}
	binary, err := Binary(t.Context(), AppProgram)
	if err != nil {
		t.Fatal(err)
	}
	app, err := h.Start("app beyond", beyond.Command(context.Background(), binary, "-name", "beyond", "-listen", "[::]:7000"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := app.WaitLog(ctx, "ready\n"); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{BeyondIPv4 + ":7000", "[" + BeyondIPv6 + "]:7000"} {
		conn, err := h.Net.Dial(ctx, "tcp", address)
		if err != nil {
			t.Errorf("from the network: %v", err)
			continue
		}
		if greeting, err := Hello(ctx, conn); err != nil || greeting != "hello from beyond" {
			t.Errorf("%s says %q, %v", address, greeting, err)
		}
		conn.Close()
	}
}
