// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// Reasons that judges know again.
const (
	reasonACLsOff   = "ACLs are disabled"
	reasonDenied    = "the token may not read it"
	reasonGossipOff = "gossip is not encrypted"
)

// own is a right of the client's own token, by its place in ownRights.
type own int

// The rights up to ownOperatorWrite are none to give to a token that stays on the host for the service.
const (
	ownACL own = iota
	ownKeyring
	ownOperatorRead
	ownOperatorWrite
	ownIntentions
	ownServices
	ownNodes
)

// ownRights are asked before anything that needs them: each refusal is a line in the agent's log, and a list that is filtered
// does not say so on each version. In Consul 1.21 an intention is in the list for who may read those of either of its ends,
// those from or to "*" for who may read any; the empty segment is ruled by what rules all names.
func ownRights() []consul.Right {
	return []consul.Right{
		ownACL:           {Resource: "acl", Access: "read"},
		ownKeyring:       {Resource: "keyring", Access: "read"},
		ownOperatorRead:  {Resource: "operator", Access: "read"},
		ownOperatorWrite: {Resource: "operator", Access: "write"},
		ownIntentions:    {Resource: "intention", Access: "read"},
		ownServices:      {Resource: "service", Access: "read"},
		ownNodes:         {Resource: "node", Access: "read"},
	}
}

const (
	needsACL        = `acl = "read"` + inPolicy
	needsKeyring    = `keyring = "read"` + inPolicy
	needsOperator   = `operator = "write"` + inPolicy // Consul asks for it to tell the CA's configuration: seen in 1.10 to 1.21; 1.8 for read
	needsIntentions = `service_prefix "" { policy = "read" }` + inPolicy
	needsNodes      = `node_prefix "" { policy = "read" }` + inPolicy
	needsAgent      = `agent "NODE" { policy = "read" }` + inPolicy
	inPolicy        = " in the token's policy"
)

// questions is the talk with one agent.
type questions struct {
	*looking
	ctx      context.Context
	answered bool // it has said something
	// gone says why the agent is not asked any more, where it cannot be.
	gone, goneNeeds string
	rights          Seen[[]bool] // of ownRights
	aclsOff         bool
}

// ask asks the agent for all that it tells, and returns the datacenter's servers.
func (l *looking) ask(ctx context.Context) Seen[[]consul.Server] {
	q := &questions{looking: l, ctx: ctx}
	if l.from.Consul == nil {
		q.gone, q.goneNeeds = "no agent was asked", "run it against the agent of this host"
	}
	in, agent := l.in, l.from.Consul
	in.Running = answer(q, needsAgent, func() (consul.Running, error) { return agent.Running(ctx) })
	q.askRights()
	q.registrations()
	q.anonymous()
	in.Tokens = Unseen[consul.Tokens](reasonACLsOff, "")
	if !q.aclsOff {
		in.Tokens = allowed(q, ownACL, needsACL, func() (consul.Tokens, error) { return agent.Tokens(ctx) })
	}
	in.Keyrings = q.keyrings()
	q.mesh()
	if l.from.Service {
		return Unseen[[]consul.Server]("the service asks no server", asAuditor)
	}
	return whole(q, ownNodes, needsNodes, func() ([]consul.Server, error) { return agent.Servers(ctx) })
}

// answer asks one question. needs is what it takes where the agent refuses and does not say.
func answer[T any](q *questions, needs string, ask func() (T, error)) Seen[T] {
	if q.gone != "" {
		return Unseen[T](q.gone, q.goneNeeds)
	}
	value, err := ask()
	if err == nil {
		q.answered = true
		return Known(value)
	}
	reason, needs := q.because(err, needs)
	return Unseen[T](reason, needs)
}

// allowed asks a question that takes a right, unless the token is known to lack it. The service asks only where the token is
// known to have it.
func allowed[T any](q *questions, right own, needs string, ask func() (T, error)) Seen[T] {
	if q.from.Service && right <= ownOperatorWrite {
		needs = "run hostagent audit with another token than the service's: " + needs
	}
	switch may := q.may(right); {
	case q.gone != "":
	case q.rights.Known && !may:
		return Unseen[T](reasonDenied, needs)
	case !q.rights.Known && q.from.Service:
		return Unseen[T](q.rights.Reason, needs)
	}
	return answer(q, needs, ask)
}

// whole asks for a list out of which ACLs take what the token may not read: only who is known to read all knows it.
func whole[T any](q *questions, right own, needs string, ask func() (T, error)) Seen[T] {
	if q.gone == "" && !q.rights.Known {
		return Unseen[T]("whether the list is whole is not known: "+q.rights.Reason, needs)
	}
	return allowed(q, right, needs, ask)
}

func (q *questions) askRights() {
	rights := ownRights()
	got := answer(q, "", func() ([]bool, error) {
		may, err := q.from.Consul.Authorize(q.ctx, false, rights...)
		if consul.KindOf(err) == consul.KindACLsOff {
			q.aclsOff, err = true, nil
			may = slices.Repeat([]bool{true}, len(rights))
		}
		return may, err
	})
	if q.rights = got; got.Known && len(got.Value) != len(rights) {
		q.rights = Unseen[[]bool]("what the token may do was not told", "")
	}
}

// may tells whether the token is known to have a right.
func (q *questions) may(right own) bool { return q.rights.Known && q.rights.Value[right] }

// registrations are the agent's, or where none was asked those that its files make.
func (q *questions) registrations() {
	in := q.in
	if q.from.Consul == nil {
		in.Registrations = Unseen[[]consul.Registration](q.gone, q.goneNeeds)
		if in.Disk.Known {
			regs, _ := in.Disk.Value.Registrations()
			in.Registrations = Known(regs)
			q.note("no agent was asked: services that were registered through its API are not known")
		}
		return
	}
	in.Registrations = answer(q, needsIntentions, func() ([]consul.Registration, error) {
		got, err := q.from.Consul.Services(q.ctx)
		if consul.KindOf(err) == consul.KindTooOld && q.may(ownServices) {
			err = nil // it does not say what it leaves out, and has nothing to leave out
		}
		return got.Registrations, err
	})
}

// anonymous asks what anybody may do without a token.
func (q *questions) anonymous() {
	if q.aclsOff {
		q.in.Anonymous = Known(Rights{ACLsOff: true})
		return
	}
	var names []string
	for _, r := range q.in.Registrations.Value {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	rights := anonymousRights(slices.Compact(names))
	q.in.Anonymous = answer(q, "", func() (Rights, error) {
		may, err := q.from.Consul.Authorize(q.ctx, true, rights...)
		if consul.KindOf(err) == consul.KindACLsOff {
			return Rights{ACLsOff: true}, nil
		}
		return Rights{Rights: rights, Allowed: may}, err
	})
	if got := q.in.Anonymous; got.Known && len(got.Value.Allowed) != len(got.Value.Rights) {
		q.in.Anonymous = Unseen[Rights]("what it may do was not told", "")
	}
}

// keyrings asks for the gossip keys, of every node: where there are none, each of them would log an error over it.
func (q *questions) keyrings() Seen[[]consul.Keyring] {
	r := &q.in.Running.Value
	if lan, wan := r.GossipEncrypted, r.GossipEncryptedWAN; lan != nil && !*lan && (wan == nil || !*wan) {
		return Unseen[[]consul.Keyring](reasonGossipOff, "")
	}
	return allowed(q, ownKeyring, needsKeyring, func() ([]consul.Keyring, error) { return q.from.Consul.Keyrings(q.ctx) })
}

// intentions asks for the datacenter's intentions, out of which servers take what the token may not read. What it may do was
// asked of the local agent: a client that allows by default, or has no ACLs, allows what its servers refuse, which then answer
// with an empty list and do not say so (seen with Consul 1.21).
func (q *questions) intentions() Seen[[]consul.Intention] {
	r := q.in.Running
	policy := r.Value.ACLDefaultPolicy
	switch {
	case q.gone != "":
	case !r.Known && q.may(ownIntentions):
		return Unseen[[]consul.Intention]("whether the list is whole is not known: "+r.Reason, r.Needs)
	case r.Known && !r.Value.Server && (q.aclsOff || policy == nil || *policy != "deny"):
		return Unseen[[]consul.Intention]("whether the list is whole is not known: this agent is a client that allows by default, "+
			"and its servers judge what is in it", `acl { enabled = true, default_policy = "deny" } in the agent's configuration, or an audit of a server`)
	}
	return whole(q, ownIntentions, needsIntentions, func() ([]consul.Intention, error) { return q.from.Consul.Intentions(q.ctx) })
}

// mesh asks about the CA and intentions. Without the mesh each question is an error in the agent's log, so one has to do.
func (q *questions) mesh() {
	in, agent := q.in, q.from.Consul
	in.Authority = answer(q, "", func() (consul.Authority, error) { return agent.Authority(q.ctx) })
	if in.Authority.Reason == reasonMeshOff {
		in.CAConfig, in.Intentions = Unseen[consul.CAConfig](reasonMeshOff, ""), Unseen[[]consul.Intention](reasonMeshOff, "")
		return
	}
	q.caConfig()
	in.Intentions = q.intentions()
}

// caConfig asks how the CA of the mesh is configured. Consul 1.8 tells who may read the operator's state, later versions who
// may write it, so that the service, which is to leave no refusals in the log, waits for the latter.
func (q *questions) caConfig() {
	right := ownOperatorRead
	if q.from.Service {
		right = ownOperatorWrite
	}
	agent := q.from.Consul
	q.in.CAConfig = allowed(q, right, needsOperator, func() (consul.CAConfig, error) { return agent.CAConfig(q.ctx) })
}

// because says in short why the agent did not answer, and what would mend it. Where it cannot be asked at all, it is not
// asked again, and one note says all of why.
func (q *questions) because(err error, needs string) (reason, mend string) {
	kind := consul.KindOf(err)
	reason, mend, gone := shortly(kind)
	switch {
	case reason == "":
		q.answered = true
		return catalog.CleanTo(strings.Join(strings.Fields(err.Error()), " "), maxFound), "" // some have a line for each node
	case kind == consul.KindDenied:
		if rule := consul.MissingRule(err); rule != "" {
			needs = rule + inPolicy
		}
		q.answered = true
		if needs == "" { // what everybody may ask: Consul does not take the token itself
			q.note(err.Error())
			return "Consul refuses the token", "a token that Consul knows"
		}
		return reason, needs
	case kind == consul.KindFiltered:
		q.answered = true
		if e, ok := errors.AsType[*consul.Error](err); ok && e.Fix != "" {
			needs = e.Fix // another one without a token than with one
		}
		return reason, needs
	case !gone, kind == consul.KindTimeout && q.answered: // some questions wait for servers
		q.answered = true
		return reason, mend
	}
	q.gone, q.goneNeeds = reason, mend
	q.note(err.Error())
	return reason, mend
}

// shortly is a kind of failure in a few words, and what mends it; gone tells that there is no use in asking anything else.
func shortly(kind consul.Kind) (reason, needs string, gone bool) {
	switch kind {
	case consul.KindUnreachable:
		return "the agent does not answer", "an agent that runs, and its address in CONSUL_HTTP_ADDR or consul { address }", true
	case consul.KindTimeout:
		return "the agent did not answer in time", "an agent that answers; consul { timeout } lets it take longer", true
	case consul.KindTLS:
		return "TLS with the agent failed", "the agent's CA in consul { ca_file } or CONSUL_CACERT", true
	case consul.KindToken:
		return "the token file cannot be read", "a token file that can be read", true
	case consul.KindImpostor:
		return "what listens at the agent's address is not trusted", "an agent that runs as root or consul { user }", true
	case consul.KindNotLocal:
		return "the agent is another host's", "the address of this host's agent", true
	case consul.KindDenied:
		return reasonDenied, "", false
	case consul.KindFiltered:
		return "the agent leaves out what the token may not read", "", false
	case consul.KindTooOld:
		return "the agent is too old to say what it leaves out", "Consul " + consul.MinVersion + " or later", false
	case consul.KindThrottled:
		return "the agent put the question off", "another try later", false
	case consul.KindMalformed:
		return "the agent's answer cannot be read", "the address of a Consul agent", false
	case consul.KindACLsOff:
		return reasonACLsOff, "", false
	case consul.KindMeshOff:
		return reasonMeshOff, "", false
	default:
		return "", "", false
	}
}
