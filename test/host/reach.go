// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dropTimeout is how long a probe waits for an answer. The kernel sends a SYN again after 1 s, so a probe is one SYN;
// an answer over a veth pair takes less than 1 ms.
const dropTimeout = 700 * time.Millisecond

// Reach is what the network sees of a TCP port.
type Reach string

// What a probe can see.
const (
	Open    Reach = "open"    // the connection came about
	Refused Reach = "refused" // the host sent a reset, or an ICMP port unreachable: nobody listens, or a firewall rejects
	Dropped Reach = "dropped" // no answer within 700 ms
)

// Reachable tries one TCP connection from the network to address, an IP:PORT of the host. What is neither open, refused
// nor dropped (no route, a context that ended) is an error.
func (h *Host) Reachable(ctx context.Context, address string) (Reach, error) {
	return h.Net.Reachable(ctx, address)
}

// Reachable is Host.Reachable from n.
func (n *Namespace) Reachable(ctx context.Context, address string) (Reach, error) {
	probe, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	conn, err := n.Dial(probe, "tcp", address)
	switch {
	case err == nil:
		return Open, conn.Close()
	case ended(ctx) != nil:
		return "", fmt.Errorf("cannot probe %q: %w", address, ended(ctx))
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused, nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return Dropped, nil
	}
	return "", fmt.Errorf("cannot probe %q: %w", address, err)
}

// ended is ctx.Err without its delay: a connection gives up at the deadline, a moment before the context's own timer says
// so, and a probe cut short would pass for a dropped one.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// EventuallyReach probes address until it sees want, and returns how long that took from the call. Not to have seen it
// within the given time is an error that tells what was seen last.
func (h *Host) EventuallyReach(ctx context.Context, address string, want Reach, within time.Duration) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last Reach
	var failure error
	for ticker := time.Tick(pollInterval); ; {
		seen, err := h.Reachable(ctx, address)
		if err == nil && seen == want {
			return time.Since(start), nil
		}
		// A probe that the deadline cut off has seen nothing; what was seen before it is the news.
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			last, failure = seen, err
		}
		select {
		case <-ctx.Done():
			return time.Since(start), errors.Join(fmt.Errorf("%s is not %s after %v: last seen %q", address, want,
				time.Since(start).Round(time.Millisecond), last), failure)
		case <-ticker:
		}
	}
}
