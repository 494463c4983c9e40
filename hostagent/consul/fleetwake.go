// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"

	"github.com/hashicorp/consul/api"
)

// FleetIndex is what FleetChanged saw of a catalog. The zero value is what nobody saw.
type FleetIndex struct {
	Agents uint64 // hostagent's instances, their checks and those of their nodes
	Nodes  uint64 // the set of nodes
}

// FleetChanged waits until the servers see other instances of hostagent, other checks on them or on their nodes, or another
// set of nodes than at index, and returns the index of what it saw for the next call; the zero index is answered at once. It
// is called without end, on a Client of its own: a call lasts for minutes, whatever Config.Timeout says, and one in which
// nothing changed returns index as it was. While a fleet changes a lot it returns many times a second: the pace is the caller's.
//
// An index of another time, as after the servers were restored from a backup, is asked anew. Only indexes count: nothing is
// learnt of hosts, and no right but a valid token is needed. News of the gossip about hosts that run no hostagent are none.
func (c *Client) FleetChanged(ctx context.Context, q FleetQuery, index FleetIndex) (next FleetIndex, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Filters that let nothing through. The index moves all the same, also where a client agent answers a question for the
	// health of a service from the servers' stream, as it does by default (seen with Consul 1.21: on a change of a check's
	// status or output, of metadata, and of serfHealth).
	questions := []struct {
		path, filter string
		index        *uint64
	}{
		{"/v1/health/service/" + q.Service, `Node.Node == ""`, &index.Agents},
		{"/v1/catalog/nodes", `Node == ""`, &index.Nodes},
	}
	var all sync.WaitGroup
	var first sync.Once
	begins := index.Agents == 0 || index.Nodes == 0 // then only those are asked that answer at once
	for _, question := range questions {
		if begins && *question.index != 0 {
			continue
		}
		all.Go(func() {
			seen, failed := c.indexPast(ctx, q.Datacenter, question.path, question.filter, *question.index)
			if failed == nil {
				*question.index = seen
			}
			if begins && failed == nil {
				return
			}
			first.Do(func() {
				err = failed
				cancel() // the other one keeps its index, and sees at the next call what it misses
			})
		})
	}
	all.Wait()
	if err != nil {
		return FleetIndex{}, err
	}
	return index, nil
}

// indexPast waits for another index than the given one; 0 is what comes of one of another time.
func (c *Client) indexPast(ctx context.Context, datacenter, path, filter string, index uint64) (seen uint64, err error) {
	wait := changeWait - rand.N(changeWait/10)
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+c.timeout)
	defer cancel()
	got := answer{most: maxChangeBody}
	options := &api.QueryOptions{WaitIndex: index, WaitTime: wait, AllowStale: true, Filter: filter, Datacenter: datacenter}
	if _, err := c.api.Raw().Query(path, new(any), options.WithContext(context.WithValue(ctx, answerKey{}, &got))); err != nil {
		return 0, c.failure("wait for changes of the catalog", err)
	}
	seen, err = strconv.ParseUint(got.header.Get("X-Consul-Index"), 10, 64)
	switch {
	case err != nil, seen == 0: // asked with 0 it would answer at once, for ever
		return 0, c.malformed("catalog's index", errors.New("it is missing or 0; is that the address of a Consul agent?"))
	case seen < index:
		return 0, nil
	}
	return seen, nil
}
