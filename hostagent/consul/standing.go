// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// KindTaken says that somebody else's service has the id of hostagent's own.
const KindTaken Kind = "taken"

// Standing is what the agent has of hostagent.
type Standing struct {
	Registered bool            // its own service stands
	Checks     []StandingCheck // by id
	// Filtered tells that the token may not read all checks of the agent: there may be more of hostagent's on the services of
	// applications.
	Filtered bool
}

// StandingCheck is a check of hostagent's. All of it is text of others.
type StandingCheck struct {
	ID          string
	Application string // id of the service that it stands on, "" for hostagent's own
	Name        string
	Status      Status
}

// Standing tells what the agent has of the hostagent whose own service has that name.
func (c *Client) Standing(ctx context.Context, service string) (Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	w, err := c.writer(ctx, service)
	if err != nil {
		return Standing{}, err
	}
	holder, err := c.holder(ctx, service)
	s := Standing{Registered: holder != nil && isOwn(holder, service), Filtered: w.filtered}
	for _, id := range slices.Sorted(maps.Keys(w.standing)) {
		if w.ours(id) {
			s.Checks = append(s.Checks, w.shown(id))
		}
	}
	return s, err
}

// Withdraw is Remove for who does not ask what was there.
func (c *Client) Withdraw(ctx context.Context, service string) error {
	_, err := c.Remove(ctx, service)
	return err
}

// Remove takes hostagent's own service and all its checks away, those on other services too. It is idempotent. A service
// of somebody else under that id stays. Beside an error, which tells of what could not be taken away, it returns what was.
func (c *Client) Remove(ctx context.Context, service string) (gone Standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	w, err := c.writer(ctx, service)
	if err != nil {
		return gone, err
	}
	gone.Filtered, w.until = w.filtered, c.now().Add(time.Hour) // ctx ends it, and that is an error
	holder, err := c.holder(ctx, service)
	if err != nil {
		return gone, err
	}
	own := holder != nil && isOwn(holder, service)
	var withOwn []StandingCheck
	for _, id := range slices.Sorted(maps.Keys(w.standing)) {
		switch before := w.written; {
		case !w.ours(id):
		case own && w.is(id, service) != nil:
			withOwn = append(withOwn, w.shown(id))
		default:
			if w.keep(w.takeAway(ctx, id)); w.written > before {
				gone.Checks = append(gone.Checks, w.shown(id))
			}
		}
	}
	clear(c.refused)
	if !own || w.stopped {
		return gone, w.failure()
	}
	if err := c.api.Agent().ServiceDeregisterOpts(service, opts(ctx)); err != nil && statusOf(err) != http.StatusNotFound {
		w.keep(c.failure("deregister service "+service, err))
		return gone, w.failure()
	}
	gone.Registered, gone.Checks = true, append(gone.Checks, withOwn...)
	return gone, w.failure()
}

func (w *checkWriter) shown(id string) StandingCheck {
	check := w.standing[id]
	s := StandingCheck{ID: id, Application: check.ServiceID, Name: check.Name, Status: Status(check.Status)}
	if s.Application == w.service {
		s.Application = ""
	}
	return s
}

// writer asks what stands.
func (c *Client) writer(ctx context.Context, service string) (*checkWriter, error) {
	standing, filtered, err := c.standing(ctx, service)
	return &checkWriter{c: c, service: service, standing: standing, filtered: filtered}, err
}

// standing returns the agent's checks of service and those of its name elsewhere, by check id. Whether ACLs took
// something out is no failure: who may write the checks of a service may read them, and the agent says "filtered"
// even where ACLs took out nothing that the filter would have let through (seen with Consul 1.21).
func (c *Client) standing(ctx context.Context, service string) (standing map[string]*api.AgentCheck, filtered bool, err error) {
	got, err := c.get(ctx, "/v1/agent/checks", standingFilter(service))
	if err != nil {
		return nil, false, err
	}
	standing, _, err = c.checks.decode(got.body, func(body []byte) (checks map[string]*api.AgentCheck, err error) {
		if checks, err = decodeEntries[api.AgentCheck](body); err != nil {
			return nil, err
		}
		for _, id := range slices.Sorted(maps.Keys(checks)) { // in order, so that an error is the same each time
			if check := checks[id]; check != nil && check.CheckID != id { // such as an answer to the question for services
				return nil, otherEntry("check", id)
			}
		}
		return checks, nil
	})
	if err != nil {
		return nil, false, c.malformed("checks", err)
	}
	return standing, isFiltered(got), nil
}

func standingFilter(service string) string {
	return fmt.Sprintf("ServiceID == %q or CheckID matches %q", service, "^"+regexp.QuoteMeta(service)+":")
}

// ours tells whether a check that stands may be taken away. On our own service that are the TTL checks under our prefix. On
// anybody else's it is only the one with the very id that we make for that service: whatever else is named like ours there
// is its owner's business.
func (w *checkWriter) ours(id string) bool {
	check := w.standing[id]
	if check == nil || check.Type != "ttl" || !strings.HasPrefix(id, w.service+":") {
		return false
	}
	return check.ServiceID == w.service || id == w.id(ResultKey(check.ServiceID))
}

func (w *checkWriter) takeAway(ctx context.Context, id string) error {
	service := w.standing[id].ServiceID
	if refused := w.c.refusal(service); refused != nil {
		return refused
	}
	if w.full() {
		return nil
	}
	err := w.c.api.Agent().CheckDeregisterOpts(id, opts(ctx))
	switch {
	case statusOf(err) == http.StatusNotFound:
		return nil // gone already, perhaps with its service
	case err != nil:
		return w.refuse(service, w.failed(verbTakeAway, id, service, err))
	}
	w.written++
	return nil
}

// leave takes a check away from the application's service on which it stands, before it is registered on another one. It
// would move by itself, but checks that are aliases of that service, as those of its sidecar are by default, would not hear
// of it for up to a minute (seen with Consul 1.21). Where the token may not, it moves all the same.
func (w *checkWriter) leave(ctx context.Context, id string) {
	if is := w.standing[id]; is != nil && is.ServiceID != w.service && w.c.refusal(is.ServiceID) == nil {
		_ = w.c.api.Agent().CheckDeregisterOpts(id, opts(ctx)) // what fails here fails the registration, too, or does not matter
	}
}

// ownService makes sure that nobody else has the id of our own service: to register it would overwrite theirs, and the life
// check would take theirs away after reapAfter. Checks of ours that stand there since theirs replaced ours go.
func (w *checkWriter) ownService(ctx context.Context, life Check) error {
	known, _ := slices.BinarySearchFunc(w.c.services.value, w.service, func(r Registration, id string) int { return cmp.Compare(r.ID, id) })
	differs := known < len(w.c.services.value) && w.c.services.value[known].ID == w.service && !w.c.services.value[known].IsOwn(w.service)
	is := w.is(w.id(lifeKey), w.service)
	if !differs && is != nil && is.Name == life.Name && is.Notes == life.Notes && (w.meta == nil || w.c.knowsMeta()) {
		return nil // it stands and is not registered again: no question at every Report
	}
	holder, err := w.c.holder(ctx, w.service)
	if err != nil {
		return err
	}
	if holder == nil || isOwn(holder, w.service) {
		w.c.knowMeta(holder)
		return nil
	}
	w.keep(&Error{Kind: KindTaken, Err: fmt.Errorf(
		"cannot register service %q at the Consul agent %s: another service has this id (name %q, port %d); deregister that one, or give hostagent another name with report { service_name }",
		w.service, w.c.address, truncate(holder.Service, 80), holder.Port)})
	for _, id := range slices.Sorted(maps.Keys(w.standing)) {
		if w.ours(id) && w.is(id, w.service) != nil {
			w.keep(w.takeAway(ctx, id))
		}
	}
	return w.failure()
}

// IsOwn tells whether r is the service that a hostagent of that name registers for itself: it has no port and does
// nothing. Metadata is no sign: another version of hostagent may have other.
func (r *Registration) IsOwn(name string) bool {
	return r.ID == name && r.Name == name && r.Kind == "" && r.Port == 0 && r.Address == "" && r.Socket == "" && !r.Native && r.Proxy == nil
}

func isOwn(s *api.AgentService, name string) bool {
	r := registration(s)
	return r.IsOwn(name) && len(s.Tags) == 0
}

// holder returns the service that has the id, nil for none.
func (c *Client) holder(ctx context.Context, id string) (*api.AgentService, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var got answer
	_, _, err := c.api.Agent().Service(id, opts(context.WithValue(ctx, answerKey{}, &got)))
	if statusOf(err) == http.StatusNotFound {
		return nil, nil //nolint:nilnil // none is an answer, not a failure
	}
	if err != nil {
		return nil, c.failure("ask for service "+id, err)
	}
	var s *api.AgentService
	if err := json.Unmarshal(got.body, &s); err != nil || s == nil || s.ID != id {
		return nil, c.malformed("description of service "+id, cmp.Or(err, errors.New("it does not describe that service")))
	}
	return s, nil
}

// statusOf returns the HTTP status other than 200 that err tells of, 0 for none.
func statusOf(err error) int {
	if status, ok := errors.AsType[api.StatusError](err); ok {
		return status.Code
	}
	return 0
}

// refusalLasts is how long an application's service is not asked again whether it takes checks: a token without rights on
// thousands of them would meet as many refusals at every Report.
const refusalLasts = time.Minute

// refusal is a service on which our token may not write.
type refusal struct {
	err   error
	until time.Time
}

// refusal returns why the service takes no checks of ours, nil where it does or has not been asked lately.
func (c *Client) refusal(service string) error {
	if r, ok := c.refused[service]; ok && c.now().Before(r.until) {
		return r.err
	}
	return nil
}

// place writes a check where it is wanted, and where the application's service refuses it, on our own.
func (w *checkWriter) place(ctx context.Context, id string, check Check) {
	service := cmp.Or(check.Application, w.service)
	if service == w.service {
		w.keep(w.result(ctx, id, w.service, check))
		return
	}
	err := w.c.refusal(service)
	if err == nil {
		err = w.refuse(service, w.result(ctx, id, service, check))
	}
	switch {
	case w.c.refusal(service) != nil:
		w.keep(err)
		w.keep(w.result(ctx, id, w.service, check))
	case errors.Is(err, errGone):
	default:
		w.keep(err)
	}
}

const verbTakeAway = "take away"

// errGone tells that the service or its check went away since we looked. What is to be done the next look will tell.
var errGone = errors.New("no longer registered")

// refuse remembers err where it says that the token lacks rights on somebody else's service, and returns it.
func (w *checkWriter) refuse(service string, err error) error {
	if KindOf(err) == KindDenied && service != w.service {
		w.c.refused[service] = refusal{err: err, until: w.c.now().Add(refusalLasts)}
	}
	return err
}

// failed makes the error of a write on a service.
func (w *checkWriter) failed(verb, id, service string, err error) error {
	switch status := statusOf(err); {
	case service == w.service:
		return w.c.failure(verb+" check "+id, err)
	case status == http.StatusNotFound:
		return errGone
	case status == http.StatusForbidden:
		denied, _ := errors.AsType[api.StatusError](err)
		until := ""
		if verb != verbTakeAway {
			until = "; until then its result stands on service " + w.service
		}
		right := `the right service:write on it`
		if name := w.nameOf(id, service); isRuleName(name) {
			right = rule("service", name, "write")
		}
		return &Error{Kind: KindDenied, Err: fmt.Errorf("cannot %s check %s on service %q at the Consul agent %s: status %d: %s; give hostagent's token %s%s",
			verb, id, truncate(service, 80), w.c.address, denied.Code, denied.Body, right, until)}
	}
	return w.c.failure(verb+" check "+id+" on service "+truncate(service, 80), err)
}

// nameOf returns the name of the service with that id, as far as it is known: ACL rules are about names.
func (w *checkWriter) nameOf(id, service string) string {
	regs := w.c.services.value
	if i, found := slices.BinarySearchFunc(regs, service, func(r Registration, id string) int { return cmp.Compare(r.ID, id) }); found {
		return regs[i].Name
	}
	if is := w.is(id, service); is != nil {
		return cmp.Or(is.ServiceName, service)
	}
	return service
}
