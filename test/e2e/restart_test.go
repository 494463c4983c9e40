// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// backends are what rules and sets can be in, as configuration.
func backends() map[string]string {
	return map[string]string{"nft": usingVariant("nft"), "legacy": usingVariant("legacy"),
		"nftables": "firewall {\n  backend = \"nftables\"\n}\n"}
}

// TestRestartsUnderTraffic: whenever and however hostagent ends, and whenever it comes back, a client that connects to an
// open port without pause is neither refused nor kept waiting, and one that tries a closed port is never answered.
func TestRestartsUnderTraffic(t *testing.T) {
	t.Parallel()
	const cycles = 50 // of each way to end
	for name, backend := range backends() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			_, port := w.service("web", 8080, "127.0.0.1:8080")
			w.listenOn("squatter", 21200)
			config := quick + backend
			agent := w.guard(backend)

			traffic := w.knock(port, 21200)
			random := rand.New(rand.NewPCG(5, 50))
			for i := range 2 * cycles {
				// From the middle of starting to long after it.
				time.Sleep(time.Duration(20+random.IntN(400)) * time.Millisecond)
				if i%2 == 0 {
					w.must(agent.Signal(unix.SIGTERM))
					_, err := agent.Wait(w.ctx)
					w.must(err)
				} else {
					w.must(agent.Kill())
				}
				agent = w.start(config, "--mode", "guard")
			}
			w.must(agent.WaitLog(w.ctx, "adopted the rules of an earlier run"))
			t.Log(traffic.stop(t))
			w.guarded()
			w.reaches(port, host.Open)
			w.reaches(21200, host.Dropped)
		})
	}
}

// traffic counts what clients in the network meet.
type traffic struct {
	cancel            context.CancelFunc
	clients           sync.WaitGroup
	connected, knocks atomic.Int64
	slowest           atomic.Int64 // nanoseconds
	mu                sync.Mutex
	wrong             []string
}

// knock starts clients that connect to open and others that try closed, over both families, until stop.
func (w *world) knock(open, closed uint16) *traffic {
	ctx, cancel := context.WithCancel(w.ctx)
	tr := &traffic{cancel: cancel}
	for _, address := range both() {
		tr.clients.Go(func() {
			// A breath between two connections: whoever uses a source port again within a minute may meet the rest of the
			// former connection at the other end, which costs a second without any firewall.
			for ticker := time.Tick(1200 * time.Microsecond); ctx.Err() == nil; <-ticker {
				tr.connect(ctx, w.Host, at(address, open))
			}
		})
		for range 4 {
			tr.clients.Go(func() {
				for ctx.Err() == nil {
					tr.try(ctx, w.Host, at(address, closed))
				}
			})
		}
	}
	return tr
}

// connect makes one connection that must come about. It ends with a reset, so that no port stays in TIME_WAIT.
func (tr *traffic) connect(ctx context.Context, h *host.Host, address string) {
	start := time.Now()
	dial, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := h.Net.Dial(dial, "tcp", address)
	if err != nil {
		if ctx.Err() == nil {
			tr.report("%s after %v: %v", address, time.Since(start), err)
		}
		return
	}
	took := time.Since(start)
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = tcp.SetLinger(0)
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		tr.report("%s: %v", address, err)
	}
	tr.connected.Add(1)
	for slowest := tr.slowest.Load(); int64(took) > slowest && !tr.slowest.CompareAndSwap(slowest, int64(took)); {
		slowest = tr.slowest.Load()
	}
}

// try sends one SYN that must find no answer.
func (tr *traffic) try(ctx context.Context, h *host.Host, address string) {
	dial, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	conn, err := h.Net.Dial(dial, "tcp", address)
	tr.knocks.Add(1)
	switch {
	case err == nil:
		tr.report("%s answered", address)
		_ = conn.Close() // what matters is that there was one
	case errors.Is(err, unix.ECONNREFUSED):
		tr.report("%s refused", address)
	}
}

func (tr *traffic) report(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.wrong = append(tr.wrong, fmt.Sprintf(format, args...))
}

// stop ends the clients, fails the test for what went wrong, and sums up.
func (tr *traffic) stop(t *testing.T) string {
	t.Helper()
	tr.cancel()
	tr.clients.Wait()
	if slowest := time.Duration(tr.slowest.Load()); slowest > time.Second {
		t.Errorf("an allowed connection took %v", slowest)
	}
	if len(tr.wrong) > 0 {
		t.Errorf("%d wrong answers, the first: %s", len(tr.wrong), tr.wrong[0])
	}
	if tr.connected.Load() < 1000 || tr.knocks.Load() < 1000 {
		t.Errorf("too little traffic to prove anything")
	}
	return fmt.Sprintf("%d connections, the slowest %v; %d tries of a closed port", tr.connected.Load(),
		time.Duration(tr.slowest.Load()).Round(time.Microsecond), tr.knocks.Load())
}
