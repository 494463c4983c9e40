// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hostagent/hostagent/sockets"
)

const (
	// elsewhereDeadline bounds a look into other network namespaces.
	elsewhereDeadline = 3 * time.Second
	// elsewhereRest is the least time between two looks: with hundreds of namespaces one takes a tenth of a second, and
	// containers may come and go without pause.
	elsewhereRest = time.Second
)

// elsewhere is what the loop knows of other network namespaces.
type elsewhere struct {
	sockets.Spaces
	looked time.Time // the last time
	soon   bool      // they are looked at again as soon as elsewhereRest is over, and otherwise after afreshEvery
	err    error     // of the last look

	reminder time.Time // when a pass is woken for it, or was
}

// lookElsewhere brings what listens in other network namespaces up to date, now and then; a failure keeps the last list.
func (a *Agent) lookElsewhere(ctx context.Context, now time.Time) {
	rest := afreshEvery
	if a.elsewhere.soon {
		rest = elsewhereRest
	}
	if a.parts.Elsewhere == nil || !a.elsewhere.looked.IsZero() && now.Sub(a.elsewhere.looked) < rest {
		return
	}
	a.elsewhere.looked, a.elsewhere.soon = now, false
	looking := time.Now()
	var spaces sockets.Spaces
	var err error
	a.meanwhile(ctx, func(ctx context.Context) { spaces, err = a.parts.lookElsewhere(ctx) })
	if a.elsewhere.err = err; err == nil {
		a.elsewhere.Spaces = spaces
	}
	a.stepped("namespaces", looking)
}

// lookElsewhereSoon has one of the next passes look at other network namespaces: something has begun to listen in one.
func (a *Agent) lookElsewhereSoon() { a.elsewhere.soon = true }

// remind has a pass look at other network namespaces, where that is wanted, as soon as elsewhereRest is over: the next one
// may be as late as poll_interval.
func (a *Agent) remind(now time.Time) {
	if a.beside.busy || !a.elsewhere.soon || a.parts.Elsewhere == nil || now.Before(a.elsewhere.reminder) {
		return
	}
	a.elsewhere.reminder = a.elsewhere.looked.Add(elsewhereRest)
	time.AfterFunc(a.elsewhere.reminder.Sub(now), func() { signal(a.ears.wake) })
}

// degradations are what is not known of other network namespaces.
func (e *elsewhere) degradations() []string {
	texts := slices.Clone(e.Incomplete)
	if e.err != nil {
		texts = append(texts, e.err.Error())
	}
	return texts
}

// lookElsewhere lists what listens in other network namespaces, where that can be done.
func (p *Parts) lookElsewhere(ctx context.Context) (sockets.Spaces, error) {
	if p.Elsewhere == nil {
		return sockets.Spaces{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereDeadline)
	defer cancel()
	return p.Elsewhere(ctx)
}

// takeElsewhere takes over what a look into other network namespaces saw.
func (s *Scan) takeElsewhere(wait func() (sockets.Spaces, error), in *Input) {
	spaces, err := wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		s.note("%v", err)
	}
	in.Elsewhere, in.Namespaces = spaces.Listeners, spaces.Namespaces
	s.wholeElsewhere = err == nil && len(spaces.Incomplete) == 0
	for _, text := range spaces.Incomplete {
		s.note("%s", text)
	}
}
