// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// changeWait is how long the servers may keep a question that nothing changes; they add up to a sixteenth.
	changeWait = 5 * time.Minute
	// maxChangeBody bounds an answer that is not read: with noServices it has a few hundred bytes.
	maxChangeBody = 1 << 20
	// noServices is a filter that lets no service through. A change of any of the node's services moves the index all the
	// same, and so does one that the token may not read (seen with Consul 1.21).
	noServices = `ID == ""`
)

// Changed waits until the catalog of the servers sees another set of services at node than at index, and returns the index
// of what it saw for the next call; index 0 is answered at once. It is called without end, on a Client of its own: a call
// lasts for minutes, whatever Config.Timeout says, and one in which nothing changed returns index as it was.
//
// An index of another time, as after the servers were restored from a backup, comes back as 0. Only the index counts:
// nothing is learnt of the services, and no right but a valid token is needed. Changes of checks are none.
func (c *Client) Changed(ctx context.Context, node string, index uint64) (next uint64, err error) {
	wait := changeWait - rand.N(changeWait/10) // hosts that started together do not come back together
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+c.timeout)
	defer cancel()
	got := answer{most: maxChangeBody}
	path := "/v1/catalog/node-services/" + node // api.Client escapes it
	query := &api.QueryOptions{WaitIndex: index, WaitTime: wait, AllowStale: true, Filter: noServices}
	if _, err := c.api.Raw().Query(path, new(any), query.WithContext(context.WithValue(ctx, answerKey{}, &got))); err != nil {
		return 0, c.failure("wait for changes of the catalog", err)
	}
	seen, err := strconv.ParseUint(got.header.Get("X-Consul-Index"), 10, 64)
	switch {
	case err != nil, seen == 0: // asked with 0 it would answer at once, for ever
		return 0, c.malformed("catalog's index", errors.New("it is missing or 0; is that the address of a Consul agent?"))
	case seen < index:
		return 0, nil
	}
	return seen, nil
}
