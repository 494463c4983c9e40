// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// Consul's bounds of metadata (1.21), which refuses a registration that is beyond one of them.
	maxMetaPairs = 64
	maxMetaKey   = 128
	maxMetaValue = 512
	reservedMeta = "consul-"
	// metaLasts is how long the agent is not asked again for the metadata of hostagent's own service: with that alone somebody
	// else's registration of it would stand.
	metaLasts = time.Minute
)

// ownMeta is the metadata of hostagent's own service as the agent has it, as far as that is known.
type ownMeta struct {
	meta  map[string]string
	until time.Time // from when it is not known any more
}

// knowMeta keeps what holder, our own service or nil, has.
func (c *Client) knowMeta(holder *api.AgentService) {
	c.own = ownMeta{until: c.now().Add(metaLasts)}
	if holder != nil {
		c.own.meta = holder.Meta
	}
}

// knowsMeta tells whether what is known of it may be relied on for another Report.
func (c *Client) knowsMeta() bool { return c.now().Before(c.own.until) }

// keepMeta lets keys of the metadata stand as they are.
func (w *checkWriter) keepMeta(keys []string) {
	for _, key := range keys {
		if value, stands := w.c.own.meta[key]; stands && w.meta != nil {
			w.meta[key] = value
		}
	}
}

// tell registers our own service again where it has other metadata than it shall have. Its checks stay as they are, with
// their status, output and TTL (seen with Consul 1.21, which takes checks away only where it is asked to replace them).
// What was known when the Report began counts to its end: a steady host would write whenever that expires in between.
func (w *checkWriter) tell(ctx context.Context) error {
	if known := !w.c.own.until.IsZero(); w.meta == nil || known && maps.Equal(w.c.own.meta, w.meta) {
		return nil
	}
	if err := w.registerOwn(ctx, nil); err != nil {
		return w.c.failure("register service "+w.service, err)
	}
	w.written++
	return nil
}

// registerOwn registers our own service, with check where that is not nil. A registration replaces all that stands of a
// service but its checks, so that each one carries the metadata. The error is api.Client's.
func (w *checkWriter) registerOwn(ctx context.Context, check *api.AgentServiceCheck) error {
	meta := w.meta
	if meta == nil { // what stands is to stay
		if !w.c.knowsMeta() {
			holder, err := w.c.holder(ctx, w.service)
			if err != nil {
				return err
			}
			w.c.knowMeta(holder)
		}
		meta = w.c.own.meta
	}
	before := w.c.own
	w.c.own = ownMeta{} // should the answer be lost
	err := w.c.api.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: w.service, Name: w.service, Meta: meta, Check: check,
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	switch {
	case err == nil:
		w.c.own = ownMeta{meta: meta, until: w.c.now().Add(metaLasts)}
	case statusOf(err) != 0: // refused
		w.c.own = before
	}
	return err
}

// cleanMeta returns the pairs of meta that Consul takes, such as they come back from it unchanged; nil for nil.
func cleanMeta(meta map[string]string) map[string]string {
	if meta == nil {
		return nil
	}
	isKey := regexp.MustCompile(`^[a-zA-Z0-9_-]+$`).MatchString
	clean := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		value := strings.ToValidUTF8(meta[key], "\uFFFD")
		if len(clean) < maxMetaPairs && isKey(key) && len(key) <= maxMetaKey && !strings.HasPrefix(key, reservedMeta) && len(value) <= maxMetaValue {
			clean[key] = value
		}
	}
	return clean
}
