// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
)

const (
	maxKVKeys  = 1000
	maxKVKey   = 500       // bytes of one key, which errors repeat
	maxKVBytes = 512 << 10 // of all values together, which is also Consul's own bound of one
	maxKVBody  = 2 << 20   // 1,000 keys with so much in base64
)

// KV is what Consul's KV holds below a prefix. The values are text of others.
type KV struct {
	// Index is what the next question waits for; 0: it is answered at once.
	Index uint64
	// Entries stand in order of key. A prefix without keys has none.
	Entries []KVEntry
}

// KVEntry is a key with what it holds, nil for nothing.
type KVEntry struct {
	Key   string
	Value []byte
}

// KV waits until the servers hold other entries below prefix than at index, and returns all of them; index 0 is answered at
// once. It is called without end, on a Client of its own: a call with an index lasts for minutes, whatever Config.Timeout
// says, and may return what was there before. Below a prefix without keys each change of any key anywhere ends it.
//
// An answer is whole or it is an error: nothing that ACLs have emptied reads as a prefix without keys. (Unless Consul allows
// by default and a rule denies these keys to who sends no token: it does not tell those what it leaves out.) More than 1,000
// keys, 500 bytes of one key or 512 KiB of values are an error too. An index of another time, as after the servers were
// restored from a backup, comes back as 0.
func (c *Client) KV(ctx context.Context, prefix string, index uint64) (KV, error) {
	wait := changeWait - rand.N(changeWait/10) // hosts that started together do not come back together
	limit := c.timeout
	query := &api.QueryOptions{AllowStale: true}
	if index != 0 {
		query.WaitIndex, query.WaitTime = index, wait
		limit += wait + wait/16
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	got := answer{most: maxKVBody}
	rule := fmt.Sprintf("key_prefix %q { policy = \"list\" }", prefix)                                 // list: read is too little with acl { enable_key_list_policy }
	_, _, err := c.api.KV().List(prefix, query.WithContext(context.WithValue(ctx, answerKey{}, &got))) // 404 is no error of its
	none := got.status == http.StatusNotFound
	switch {
	case errors.Is(err, errTooLong):
		return KV{}, c.malformed("settings", fmt.Errorf("there are more below %q than hostagent takes: at most %d keys with %d KiB", prefix, maxKVKeys, maxKVBytes>>10))
	case err != nil:
		return KV{}, needing(c.failure(fmt.Sprintf("read the keys below %q", prefix), err), rule)
	}
	seen, err := strconv.ParseUint(got.header.Get("X-Consul-Index"), 10, 64)
	if err != nil || seen == 0 { // what else says that it is not found is no agent
		return KV{}, c.malformed("index of the keys", errors.New("it is missing or 0; is that the address of a Consul agent?"))
	}
	if err := wholeKV(got, rule); err != nil {
		return KV{}, err
	}
	kv := KV{Index: seen}
	if seen < index {
		kv.Index = 0
	}
	if none {
		return kv, nil
	}
	if kv.Entries, err = decodeKV(got.body, prefix); err != nil {
		return KV{}, c.malformed("keys", err)
	}
	return kv, nil
}

// wholeKV is whole for keys, which a token lacks other rights for.
func wholeKV(got answer, rule string) error {
	if isFiltered(got) {
		return &Error{Kind: KindFiltered, Err: errors.New("it left keys out, because the token may not read all of them"),
			Fix: "add this rule to a policy of the token, and take away what denies some of these keys: " + rule}
	}
	return whole(got)
}

func decodeKV(body []byte, prefix string) ([]KVEntry, error) {
	entries, err := decodeList[KVEntry](body, maxKVKeys, "keys")
	if err != nil {
		return nil, err
	}
	bytes := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, prefix) {
			return nil, fmt.Errorf("it holds one that is not below %q", prefix)
		}
		if len(e.Key) > maxKVKey {
			return nil, fmt.Errorf("it holds a key of %d bytes below %q; at most %d", len(e.Key), prefix, maxKVKey)
		}
		if bytes += len(e.Value); bytes > maxKVBytes {
			return nil, fmt.Errorf("the values below %q have more than %d KiB", prefix, maxKVBytes>>10)
		}
	}
	slices.SortFunc(entries, func(a, b KVEntry) int { return cmp.Compare(a.Key, b.Key) })
	for i := 1; i < len(entries); i++ {
		if entries[i].Key == entries[i-1].Key {
			return nil, errors.New("it holds one twice")
		}
	}
	return entries, nil
}
