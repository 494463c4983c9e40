// SPDX-License-Identifier: MPL-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Exempt is one block "exempt": a finding that is meant to be so. Of Service, Port and Executable at least one is set, and
// all that are must fit.
type Exempt struct {
	Finding    string // id
	Service    string // name
	Port       uint16 // 0: any
	Executable string // absolute path
	Reason     string // one line
	// Because is BecauseFirewall where a firewall elsewhere keeps the network from the listener, otherwise "".
	Because string
	// Expires is midnight in UTC of the last day on which the exemption holds; zero: it holds for good.
	Expires time.Time
	// FromKV tells that the block stands in Consul's KV and not in a file of this host.
	FromKV bool
}

// BecauseFirewall is the one word that Exempt.Because knows.
const BecauseFirewall = "firewall"

const (
	blockExempt = "exempt"
	maxExempt   = 400 // blocks of the files, and as many of Consul's KV; a parser of maxMarks brackets takes not many more
	maxReason   = 200 // characters
)

// exemptible returns the findings that are about a service, a port or a listener.
func exemptible() []string {
	return []string{
		"exposed-listener", "exposed-sibling", "exposed-upstream", "exposed-admin", "exposed-consul-api", "squatted-port",
		"not-a-sidecar", "duplicate-port", "port-not-opened", "unconfirmed-claim", "sidecar-not-listening",
		"sidecar-loopback-only", "range-shared", "consul-port-blocked", "quarantine-refused",
	}
}

// aboutHost returns the findings that are about the host as a whole: no service, port or program is to blame.
func aboutHost() []string {
	return []string{
		"range-refused", "range-ephemeral-overlap", "range-nearly-full", "route-localnet", "registrations-filtered",
		"agent-impostor", "agent-not-local",
		"firewall-drift", "opening-blocked", "saved-rules",
	}
}

// exemptSetting is one key of a block "exempt". They are no settings: there may be many blocks, and no flag sets them.
type exemptSetting struct {
	name  string
	kind  kind
	store func(x *Exempt, text string) error // parses and checks
}

func (s exemptSetting) key() string { return blockExempt + "." + s.name }

// exemptSettings returns the keys in the order of the reference configuration.
func exemptSettings() []exemptSetting {
	plain := func(name string, field func(*Exempt) *string, check func(string) error) exemptSetting {
		return exemptSetting{name, kindText, func(x *Exempt, text string) error {
			*field(x) = text
			return check(text)
		}}
	}
	return []exemptSetting{
		plain("finding", func(x *Exempt) *string { return &x.Finding }, checkFinding),
		plain("service", func(x *Exempt) *string { return &x.Service }, checkName),
		{"port", kindPort, func(x *Exempt, text string) (err error) {
			x.Port, err = parsePort(text)
			return err
		}},
		plain("executable", func(x *Exempt) *string { return &x.Executable }, checkExecutable),
		plain("reason", func(x *Exempt) *string { return &x.Reason }, checkReason),
		plain("because", func(x *Exempt) *string { return &x.Because }, checkOneOf(BecauseFirewall)),
		{"expires", kindDay, func(x *Exempt, text string) (err error) {
			x.Expires, err = parseDay(text)
			return err
		}},
	}
}

func checkFinding(id string) error {
	if slices.Contains(aboutHost(), id) {
		return fmt.Errorf("%q is about the host and not about a service, a port or a listener: it cannot be exempted", id)
	}
	return checkOneOf(exemptible()...)(id)
}

// checkExecutable takes a path as /proc/PID/exe tells it.
func checkExecutable(text string) error {
	switch {
	case !path.IsAbs(text):
		return fmt.Errorf("%s is not an absolute path", quote(text))
	case path.Clean(text) != text:
		return fmt.Errorf("%s is not what the kernel calls it; write %s", quote(text), quote(path.Clean(text)))
	}
	return checkPrintable(text)
}

func checkReason(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return errors.New("is empty; say why the finding is meant to be so")
	case !isPrintable(text):
		return fmt.Errorf("%s is not one line of text", quote(text))
	case utf8.RuneCountInString(text) > maxReason:
		return fmt.Errorf("has %d characters; at most %d are shown", utf8.RuneCountInString(text), maxReason)
	}
	return nil
}

var dayShape = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

func parseDay(text string) (time.Time, error) {
	if !dayShape.MatchString(text) {
		return time.Time{}, fmt.Errorf("%s is not a day; write year, month and day as in \"2027-01-31\"", quote(text))
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("there is no day %q", text)
	}
	return day, checkDay(day)
}

// checkDay refuses what no operator can mean: the zero time stands for no day at all.
func checkDay(day time.Time) error {
	if day.Year() < 2000 {
		return fmt.Errorf("%q is before the year 2000", day.Format(time.DateOnly))
	}
	return nil
}

// lacks tells what a block without mistakes in its keys still lacks, "" for nothing.
func (x *Exempt) lacks() string {
	switch {
	case x.Finding == "":
		return `needs the key "finding"`
	case x.Service == "" && x.Port == 0 && x.Executable == "":
		return `needs one of the keys "service", "port" and "executable"`
	case x.Reason == "":
		return `needs the key "reason"`
	case x.Because != "" && !strings.HasPrefix(x.Finding, "exposed-"):
		return fmt.Sprintf("the key \"because\" is for findings of what the network reaches (exposed-*), and %q is none of them", x.Finding)
	}
	return ""
}

// inVain tells why no finding can meet a block that lacks nothing, "" where one can.
func (x *Exempt) inVain() string {
	var key, about string
	switch x.Finding {
	case "squatted-port", "duplicate-port", "exposed-consul-api", "range-shared", "consul-port-blocked":
		if x.Service != "" {
			key, about = "service", "no one service"
		}
	case "unconfirmed-claim":
		if x.Port != 0 {
			key, about = "port", "no port"
		}
	}
	switch x.Finding {
	case "duplicate-port", "port-not-opened", "unconfirmed-claim", "sidecar-not-listening", "range-shared", "consul-port-blocked", "quarantine-refused":
		if x.Executable != "" {
			key, about = "executable", "nothing that listens"
		}
	}
	if key == "" {
		return ""
	}
	return fmt.Sprintf("%q is about %s: nothing meets an exemption that names one with the key %q", x.Finding, about, key)
}

// exempt reads one block. known holds the keys of all blocks.
func (d *decoder) exempt(block *hclsyntax.Block, known map[string]setting) {
	from := origin{layer: d.layer, file: d.file, line: block.TypeRange.Start.Line}
	if d.exemptions() == maxExempt {
		if !d.config.broken[blockExempt] {
			d.problem(from.line, fmt.Sprintf("more than %d blocks %q", maxExempt, blockExempt))
			d.config.setBroken(blockExempt)
		}
		return
	}
	before := len(d.problems)
	x := Exempt{FromKV: d.layer == layerKV}
	for _, attribute := range inOrder(block.Body) {
		all := exemptSettings()
		at := slices.IndexFunc(all, func(s exemptSetting) bool { return s.name == attribute.Name })
		if at < 0 {
			d.problem(attribute.NameRange.Start.Line, unknownKey(blockExempt+".", attribute.Name, known))
			continue
		}
		text, err := d.literal(known[all[at].key()], attribute.Expr)
		if err == nil {
			err = all[at].store(&x, text)
		}
		if err != nil {
			d.problem(attribute.Expr.Range().Start.Line, all[at].key()+": "+err.Error())
		}
	}
	if what := cmp.Or(x.lacks(), x.inVain()); what != "" && len(d.problems) == before {
		d.problem(from.line, blockExempt+": "+what)
	}
	if len(d.problems) > before {
		return
	}
	// Clipped, so that append never writes into what a copy may hold.
	d.config.setOrigins(blockExempt, append(slices.Clip(d.config.origins[blockExempt]), from))
	d.config.Exemptions = append(slices.Clip(d.config.Exemptions), x)
}

// exemptions counts the blocks of d's layer that were read: those of the files leave their number to those of the KV.
func (d *decoder) exemptions() (n int) {
	for i := range d.config.Exemptions {
		if d.config.Exemptions[i].FromKV == (d.layer == layerKV) {
			n++
		}
	}
	return n
}

// inOrder returns the attributes of a body as they stand in the file.
func inOrder(body *hclsyntax.Body) []*hclsyntax.Attribute {
	return slices.SortedFunc(maps.Values(body.Attributes), func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.SrcRange.Start.Byte, b.SrcRange.Start.Byte)
	})
}

// checkExemptions checks each exemption once more: a caller may have set fields by hand.
func (c *Config) checkExemptions() Errors {
	var problems Errors
	say := func(i int, key string, err error) {
		if err != nil {
			problems = append(problems, c.where(blockExempt, i).problem(key, err.Error()))
		}
	}
	for i := range c.Exemptions {
		x := &c.Exemptions[i]
		if what := cmp.Or(x.lacks(), x.inVain()); what != "" {
			say(i, blockExempt, errors.New(what))
			continue
		}
		say(i, "exempt.finding", checkFinding(x.Finding))
		say(i, "exempt.service", checkPrintable(x.Service))
		if x.Executable != "" {
			say(i, "exempt.executable", checkExecutable(x.Executable))
		}
		say(i, "exempt.reason", checkReason(x.Reason))
		if x.Because != "" {
			say(i, "exempt.because", checkOneOf(BecauseFirewall)(x.Because))
		}
		if !x.Expires.IsZero() {
			say(i, "exempt.expires", checkDay(x.Expires))
		}
	}
	return problems
}

// contradictionsInExemptions finds blocks that exempt the same: which reason and which day would stand?
func (c *Config) contradictionsInExemptions() Errors {
	var problems Errors
	first := make(map[Exempt]int)
	for i, x := range c.Exemptions {
		x.Reason, x.Because, x.Expires = "", "", time.Time{}
		earlier, twice := first[x]
		if !twice {
			first[x] = i
			continue
		}
		from := c.where(blockExempt, i)
		problems = append(problems, from.problem(blockExempt, fmt.Sprintf("another block exempts the same of %q; keep one of them%s",
			x.Finding, c.where(blockExempt, earlier).seenFrom(from))))
	}
	return problems
}
