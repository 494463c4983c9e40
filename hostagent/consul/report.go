// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Status is a Consul check's status.
type Status string

// The statuses that a check can have.
const (
	Passing  Status = api.HealthPassing
	Warning  Status = api.HealthWarning
	Critical Status = api.HealthCritical
)

// MaxOutput is the length in bytes that Consul keeps of a check's output (check_output_max_size).
const MaxOutput = 4096

// Check is one result as the Consul UI shows it.
type Check struct {
	Key    string // stable and unique among the checks of one report, any text; "alive" is the life check's
	Name   string
	Status Status
	Output string // cut to MaxOutput bytes
	Notes  string
	// Application is the id of the service that the check stands on, "" for hostagent's own. Its Key must be ResultKey of it:
	// by that an orphan of an earlier run is known again.
	Application string
}

// ResultKey is the Key of the check with the results of the application with this id, on whichever service it stands.
func ResultKey(application string) string { return "service:" + application }

// Report is everything that hostagent wants to stand in Consul about this host.
type Report struct {
	Service string // name and id of hostagent's own service
	Life    Check  // the TTL check that says that hostagent runs; its Key is not looked at
	Checks  []Check
	// LifeOnly leaves every check that is neither Life nor among Checks as it stands: nothing is known of them yet.
	LifeOnly bool
	// Keep are keys of checks that stand as they are, if they do: nothing new is known of them yet.
	Keep []string
	// Meta is the metadata of hostagent's own service; nil leaves what stands. A pair that Consul would refuse is left out.
	Meta map[string]string
	// KeepMeta are keys of metadata that stand as they are, if they do: nothing new is known of them yet.
	KeepMeta []string
}

const (
	lifeTTL     = 30 * time.Second
	lifeRefresh = lifeTTL / 3
	// A result stands until the next one. It must not expire by itself: that hostagent died is the life check's news,
	// and everything is deregistered with it after reapAfter.
	resultTTL = "876000h"
	reapAfter = "72h"
	// About 250 new checks: three writes each, and the agent takes 5 to 20 ms for them, more the more checks it has
	// (2,000 took half a minute with Consul 1.21).
	writeBudget = time.Second
)

// Report makes the agent's checks of r.Service equal r: it registers what is missing, updates what differs, and takes
// away what is ours and no longer wanted; everything else stays as it is. A steady host writes nothing to the servers.
// It returns the number of checks written or taken away, and one more where the service got other metadata.
//
// A failing check does not keep the others from being written. After writeBudget the rest is left to the next Reports,
// which is no error: the caller has ports to open in between. A check that an application's service refuses stands on
// hostagent's own instead, beside an error. Where somebody else has the id of hostagent's own service, nothing is written.
func (c *Client) Report(ctx context.Context, r Report) (written int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	w, err := c.writer(ctx, r.Service)
	if err != nil {
		return 0, err
	}
	w.until, w.meta = c.now().Add(writeBudget), cleanMeta(r.Meta)
	if err := w.ownService(ctx, r.Life.clean()); err != nil {
		return w.written, err
	}
	w.keepMeta(r.KeepMeta)
	if err := w.life(ctx, r.Life); err != nil {
		return w.written, err // without the service no check can stand
	}
	w.keep(w.tell(ctx))
	wanted := map[string]bool{w.id(lifeKey): true}
	for _, check := range r.Checks {
		id := w.id(check.Key)
		wanted[id] = true
		w.place(ctx, id, check)
	}
	if r.LifeOnly {
		return w.written, w.failure()
	}
	kept := map[string]bool{}
	for _, key := range r.Keep {
		kept[w.id(key)] = true
	}
	for _, id := range slices.Sorted(maps.Keys(w.standing)) {
		if !wanted[id] && !kept[id] && w.ours(id) {
			w.keep(w.takeAway(ctx, id))
		}
	}
	maps.DeleteFunc(c.sent, func(id string, _ *sentOutput) bool { return !wanted[id] })
	return w.written, w.failure()
}

// opts carries ctx into a call of api.Client.
func opts(ctx context.Context) *api.QueryOptions { return (&api.QueryOptions{}).WithContext(ctx) }

// sentOutput is an output that was written, and what the agent showed for it since.
type sentOutput struct {
	output string
	looked bool
	became string // once looked
}

// stands tells whether is, the output that the agent shows, is what becomes of wanted there. An agent with a small
// check_output_max_size cuts outputs, one with discard_check_output drops them: what came of two writes alike is
// taken as such, and not written for ever.
func (c *Client) stands(id, wanted, is string) bool {
	if is == wanted {
		delete(c.sent, id)
		return true
	}
	sent := c.sent[id]
	if sent == nil || sent.output != wanted {
		return false
	}
	if sent.looked && sent.became == is {
		return true
	}
	sent.looked, sent.became = true, is
	return false
}

const lifeKey = "alive"

// checkWriter is one Report under way.
type checkWriter struct {
	c        *Client
	service  string
	standing map[string]*api.AgentCheck
	meta     map[string]string // that our own service shall have, nil for what it has
	filtered bool              // ACLs took checks out of what the agent has, of whatever services
	until    time.Time         // when no further check is begun
	written  int
	errs     []error
	unshown  int  // errors beyond maxErrors
	stopped  bool // after an error that every further write would meet
	left     int  // checks not tried since then
}

const maxErrors = 3 // shown of one Report: one missing right fails a thousand checks alike

// keep remembers err for failure.
func (w *checkWriter) keep(err error) {
	switch {
	case err == nil:
		return
	case len(w.errs) < maxErrors:
		w.errs = append(w.errs, err)
	default:
		w.unshown++
	}
	switch KindOf(err) {
	case KindUnreachable, KindTimeout, KindTLS, KindToken, KindThrottled, KindImpostor, KindNotLocal:
		w.stopped = true
	default: // it may be this check's alone
	}
}

// full tells whether a check must be left to the next Report.
func (w *checkWriter) full() bool {
	if w.stopped {
		w.left++
	}
	return w.stopped || !w.c.now().Before(w.until)
}

func (w *checkWriter) failure() error {
	errs := w.errs
	if w.unshown > 0 {
		errs = append(errs, fmt.Errorf("and %d more checks", w.unshown))
	}
	if w.left > 0 {
		errs = append(errs, fmt.Errorf("not tried after that: %d checks", w.left))
	}
	return errors.Join(errs...)
}

// CheckID is the id of the check with that key in reports on service. It is safe in a URL path: a key that had to be changed
// for that gets a digest behind a "~", which no unchanged key has, so that two keys never share an id, even where somebody
// chooses them to.
func CheckID(service, key string) string {
	safe := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:", r)) {
			return r
		}
		return '_'
	}, key)
	if safe != key || len(key) > 100 {
		sum := sha256.Sum256([]byte(key))
		safe = safe[:min(len(safe), 60)] + "~" + hex.EncodeToString(sum[:16])
	}
	return service + ":" + safe
}

func (w *checkWriter) id(key string) string { return CheckID(w.service, key) }

// is returns the check that stands under id on the service, nil for none.
func (w *checkWriter) is(id, service string) *api.AgentCheck {
	if check := w.standing[id]; check != nil && check.ServiceID == service {
		return check
	}
	return nil
}

func (w *checkWriter) life(ctx context.Context, life Check) error {
	id := w.id(lifeKey)
	life = life.clean()
	is := w.is(id, w.service)
	registered := is != nil && is.Name == life.Name && is.Notes == life.Notes
	same := registered && is.Status == string(life.Status) && w.c.stands(id, life.Output, is.Output)
	if same && w.c.now().Sub(w.c.lifeRefreshed) < lifeRefresh {
		return nil
	}
	if !registered {
		err := w.registerOwn(ctx, &api.AgentServiceCheck{
			CheckID: id, Name: life.Name, Notes: life.Notes, TTL: lifeTTL.String(), Status: string(life.Status),
			DeregisterCriticalServiceAfter: reapAfter,
		})
		if err != nil {
			return w.c.failure("register service "+w.service, err)
		}
	}
	if err := w.update(ctx, id, w.service, life); err != nil {
		return err
	}
	w.c.lifeRefreshed = w.c.now()
	if same {
		return nil
	}
	w.written++
	if is == nil || is.Status == string(life.Status) {
		w.keep(w.register(ctx, id, w.service, life, api.AgentServiceCheck{TTL: lifeTTL.String(), DeregisterCriticalServiceAfter: reapAfter}))
	}
	return nil
}

// result writes one long-lived check on a service, in as few writes as bring it to the servers at once.
func (w *checkWriter) result(ctx context.Context, id, service string, check Check) error {
	check = check.clean()
	is := w.is(id, service)
	registered := is != nil && is.Name == check.Name && is.Notes == check.Notes
	sameStatus := is != nil && is.Status == string(check.Status)
	if registered && sameStatus && w.c.stands(id, check.Output, is.Output) {
		return nil
	}
	if w.full() {
		return nil
	}
	if is == nil {
		w.leave(ctx, id)
	}
	if !registered {
		if err := w.register(ctx, id, service, check, api.AgentServiceCheck{TTL: resultTTL}); err != nil {
			return err
		}
	}
	if err := w.update(ctx, id, service, check); err != nil {
		return err
	}
	if is == nil || sameStatus {
		if err := w.register(ctx, id, service, check, api.AgentServiceCheck{TTL: resultTTL}); err != nil {
			return err
		}
	}
	w.written++
	return nil
}

// register registers a check of the given kind. Once more, after an update, it brings a changed output to the servers:
// the agent sends a new status at once, with its output, but holds back a change of the output alone for minutes
// (check_update_interval); registering the same check again sends it now, and leaves status and output as they are. One
// that stands on another service moves (measured with Consul 1.21).
func (w *checkWriter) register(ctx context.Context, id, service string, check Check, kind api.AgentServiceCheck) error {
	kind.Status = string(check.Status)
	err := w.c.api.Agent().CheckRegisterOpts(&api.AgentCheckRegistration{
		ID: id, Name: check.Name, Notes: check.Notes, ServiceID: service, AgentServiceCheck: kind,
	}, opts(ctx))
	if statusOf(err) == http.StatusForbidden && service == w.service && w.is(id, service) == nil {
		// Somebody else's service may hold a check of this id, to keep ours away: registering a check by itself needs
		// rights on that service. Registered with our service it moves over (seen with Consul 1.21).
		kind.CheckID, kind.Name, kind.Notes = id, check.Name, check.Notes
		err = w.registerOwn(ctx, &kind)
	}
	if err != nil {
		return w.failed("register", id, service, err)
	}
	return nil
}

func (w *checkWriter) update(ctx context.Context, id, service string, check Check) error {
	if err := w.c.api.Agent().UpdateTTLOpts(id, check.Output, string(check.Status), opts(ctx)); err != nil {
		return w.failed("update", id, service, err)
	}
	if sent := w.c.sent[id]; sent == nil || sent.output != check.Output {
		w.c.sent[id] = &sentOutput{output: check.Output}
	}
	return nil
}

// clean makes c's texts such as come back from Consul unchanged.
func (c Check) clean() Check {
	c.Name, c.Notes = strings.ToValidUTF8(c.Name, "\uFFFD"), strings.ToValidUTF8(c.Notes, "\uFFFD")
	c.Output = truncateUTF8(c.Output, MaxOutput)
	return c
}

// truncateUTF8 cuts s to n bytes at a rune's edge, saying that it did.
func truncateUTF8(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const more = "\n(cut)"
	return strings.ToValidUTF8(s[:n-len(more)], "") + more
}
