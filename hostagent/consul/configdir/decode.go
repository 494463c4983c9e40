// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// value is what a key holds, in its type: a bool, int64, uint64, float64, string, []value, *object, or anything of these in
// a map[string]any or []any where the key's type is open.
type value struct {
	held any
	line int
}

// object is a struct or a map. Keys of a struct are as Consul spells them now, whatever the file wrote.
type object struct {
	keys map[string]value
	line int
	bad  bool // Consul refuses something in it
}

// The accessors return the zero value where a key, or the object, is missing: types were checked while decoding.
func (o *object) has(key string) bool     { return held[any](o, key) != nil }
func (o *object) text(key string) string  { return held[string](o, key) }
func (o *object) number(key string) int64 { return held[int64](o, key) }
func (o *object) flag(key string) bool    { return held[bool](o, key) }
func (o *object) list(key string) []value { return held[[]value](o, key) }

// object returns nil where the key is missing.
func (o *object) object(key string) *object { return held[*object](o, key) }

func held[T any](o *object, key string) (zero T) {
	if o == nil {
		return zero
	}
	if v, ok := o.keys[key].held.(T); ok {
		return v
	}
	return zero
}

// lineOf is the line of a key, or else of the object.
func (o *object) lineOf(key string) int {
	if o == nil {
		return 0
	}
	return cmp.Or(o.keys[key].line, o.line)
}

// decoder turns what a parser made of a file into typed values, as mapstructure 1.5.0 does with Consul's two hooks. That
// library is not called: it says which value is wrong by quoting it, and a value can be a token. decode_test.go compares
// the two.
type decoder struct {
	service, check *keyType // definitions of these types make a scope

	trail []string // the keys on the way to here, from the scope on; those of lists and maps in brackets
	scope string   // which definition this is in: `service "web": `
	findings
}

func (d *decoder) problem(line int, format string, args ...any) {
	d.add(line, d.scope, format, args...)
}

// here is the key that is being decoded, as Consul writes it.
func (d *decoder) here() string {
	return strings.ReplaceAll(strings.Join(d.trail, "."), ".[", "[")
}

// name is a key that a file made up, for people. Where secrets are kept, a key may be one that has slipped.
func (d *decoder) name(key string) string {
	if d.scope == "" && len(d.trail) > 0 {
		path := d.here() + "."
		for _, secret := range [...]string{"acl.tokens.", "cloud.", "http_config.response_headers."} {
			if strings.HasPrefix(path, secret) {
				return "(not shown)"
			}
		}
	}
	return show(key)
}

// decode returns a typed value, false where there is none: null, or a problem that it has written down.
func (d *decoder) decode(t *keyType, raw any, at *place) (value, bool) {
	if raw == nil {
		return value{}, false
	}
	raw, at = unwrap(t, raw, at)
	if raw == nil {
		d.problem(at.at(), "%s must not be a list of null; Consul crashes on it", d.here())
		return value{}, false
	}
	switch t.kind {
	case pointerKind:
		return d.decode(t.elem, raw, at)
	case structKind, mapKind:
		if fields, ok := raw.(map[string]any); ok {
			return value{d.fields(t, fields, at), at.at()}, true
		}
	case listKind:
		if length, item := items(raw); length >= 0 {
			return value{d.listOf(t.elem, length, item, at), at.at()}, true
		}
	case anyKind:
		return value{plain(raw), at.at()}, true
	default:
		if scalar, ok := scalar(t.kind, raw); ok {
			return value{scalar, at.at()}, true
		}
	}
	d.mismatch(t, raw, at)
	return value{}, false
}

// unwrap does what Consul's HookWeakDecodeFromSlice does: HCL makes a list of every block, so a list of one stands for
// what is in it, unless a list is wanted.
func unwrap(t *keyType, raw any, at *place) (any, *place) {
	if t.kind == listKind {
		return raw, at
	}
	length, item := items(raw)
	if length != 1 {
		return raw, at
	}
	raw, at = item(0), at.item(0)
	if t.kind == anyKind {
		raw = unwrapAll(raw)
	}
	return raw, at
}

// unwrapAll does the same to the values of all maps in raw.
func unwrapAll(raw any) any {
	switch v := raw.(type) {
	case map[string]any:
		for key, inner := range v {
			if length, item := items(inner); length == 1 {
				inner = item(0)
			}
			v[key] = unwrapAll(inner)
		}
	case []any:
		for i := range v {
			v[i] = unwrapAll(v[i])
		}
	case []map[string]any:
		for i := range v {
			unwrapAll(v[i])
		}
	}
	return raw
}

// items gives access to the two types of list that the parsers make; -1 for what is none.
func items(raw any) (length int, item func(int) any) {
	switch list := raw.(type) {
	case []any:
		return len(list), func(i int) any { return list[i] }
	case []map[string]any:
		return len(list), func(i int) any { return list[i] }
	}
	return -1, nil
}

// plain is raw with one type for whole numbers and one for lists.
func plain(raw any) any {
	switch v := raw.(type) {
	case int:
		return int64(v)
	case map[string]any:
		for key := range v {
			v[key] = plain(v[key])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case []map[string]any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plain(v[i])
		}
		return list
	}
	return raw
}

// scalar converts between numbers as mapstructure does without its weak mode: fractions are cut off, texts are no numbers.
func scalar(k kind, raw any) (any, bool) {
	switch v := raw.(type) {
	case bool:
		return v, k == boolKind
	case string:
		return v, k == stringKind
	case int:
		return number(k, v)
	case float64:
		return number(k, v)
	}
	return nil, false
}

func number[N int | float64](k kind, n N) (any, bool) {
	switch k {
	case intKind:
		return int64(n), true
	case uintKind:
		return uint64(n), n >= 0
	case floatKind:
		return float64(n), true
	default:
		return nil, false
	}
}

func (d *decoder) listOf(t *keyType, length int, item func(int) any, at *place) []value {
	list := make([]value, 0, length)
	for i := range length {
		d.trail = append(d.trail, "["+strconv.Itoa(i)+"]")
		raw := item(i)
		if raw == nil {
			list = append(list, value{empty(t), at.item(i).at()})
		} else if v, ok := d.decode(t, raw, at.item(i)); ok {
			list = append(list, v)
		} else if t.pointed().kind == structKind {
			list = append(list, value{line: at.item(i).at()}) // what follows keeps its number
		}
		d.trail = d.trail[:len(d.trail)-1]
	}
	return list
}

// empty is what null stands for in a list or a map, where it takes a place.
func empty(t *keyType) any {
	switch t.kind {
	case stringKind:
		return ""
	case listKind:
		return []value(nil)
	case structKind, mapKind:
		return &object{keys: map[string]value{}}
	default:
		return nil
	}
}

// fields decodes a struct or a map; definitions of services and checks in it get a scope of their own.
func (d *decoder) fields(t *keyType, raw map[string]any, at *place) *object {
	defer d.enter(t, raw)()
	o := &object{keys: make(map[string]value, len(raw)), line: at.at()}
	before := d.found()
	if t.kind == mapKind {
		for _, key := range slices.Sorted(maps.Keys(raw)) {
			if raw[key] == nil {
				o.keys[key] = value{empty(t.elem), at.key(key).at()}
				continue
			}
			d.field(o, key, "["+d.name(key)+"]", t.elem, raw[key], at.key(key))
		}
	} else {
		for _, w := range d.written(t, raw, at) {
			d.field(o, w.name, w.name, t.keys[w.name], raw[w.key], at.key(w.key))
		}
	}
	o.bad = d.found() > before
	return o
}

// enter names the outermost definition in what is said of its parts, and returns what takes the name back.
func (d *decoder) enter(t *keyType, raw map[string]any) func() {
	if d.scope != "" || t != d.service && t != d.check {
		return func() {}
	}
	what := "service"
	if t == d.check {
		what = "check"
	}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if name, ok := raw[key].(string); ok && strings.EqualFold(key, "name") {
			trail := d.trail
			d.scope, d.trail = fmt.Sprintf("%s %s: ", what, quote(name)), nil
			return func() { d.scope, d.trail = "", trail }
		}
	}
	return func() {}
}

func (d *decoder) field(o *object, name, step string, t *keyType, raw any, at *place) {
	d.trail = append(d.trail, step)
	if v, ok := d.decode(t, raw, at); ok {
		o.keys[name] = v
	}
	d.trail = d.trail[:len(d.trail)-1]
}

// written is a key of a struct in Consul's spelling and in that of the file.
type written struct{ name, key string }

// written pairs the keys of a file with those of a struct, as HookTranslateKeys and mapstructure do one after the other: an
// alias counts unless its key is there too, the exact spelling counts before others, and what is left is refused.
func (d *decoder) written(t *keyType, raw map[string]any, at *place) []written {
	pairs := make([]written, 0, len(raw))
	for key := range raw {
		if t.keys[key] != nil {
			pairs = append(pairs, written{key, key})
		}
	}
	if len(pairs) < len(raw) {
		pairs = d.respelled(pairs[:0], t, raw, at)
	}
	slices.SortFunc(pairs, func(a, b written) int { return cmp.Compare(a.name, b.name) })
	return pairs
}

// respelled is what written does where not every key is there in Consul's spelling.
func (d *decoder) respelled(pairs []written, t *keyType, raw map[string]any, at *place) []written {
	spellings := make(map[string]string, len(raw)) // key after aliases are translated -> key in the file
	sorted := slices.Sorted(maps.Keys(raw))
	for _, key := range sorted {
		name, isAlias := t.aliases[strings.ToLower(key)]
		if !isAlias {
			spellings[key] = key
		} else if _, exact := raw[name]; exact {
			spellings[name] = name
		} else if _, taken := spellings[name]; !taken {
			spellings[name] = key
		}
	}
	taken := make(map[string]bool, len(spellings))
	for name, key := range spellings {
		if t.keys[name] != nil {
			pairs, taken[name] = append(pairs, written{name, key}), true
		}
	}
	for _, spelled := range slices.Sorted(maps.Keys(spellings)) {
		name, known := t.folds[fold(spelled)]
		switch {
		case t.keys[spelled] != nil:
		case known && !taken[name]:
			pairs, taken[name] = append(pairs, written{name, spellings[spelled]}), true
		default:
			d.unknown(t, name, spelled, at.key(spellings[spelled]))
		}
	}
	return pairs
}

// unknown refuses a key; name is what it was taken for, if another spelling had not been there.
func (d *decoder) unknown(t *keyType, name, spelled string, at *place) {
	path := d.here()
	if path == "acl_enforce_version_8" || path == "" && spelled == "acl_enforce_version_8" ||
		strings.HasPrefix(path, "audit.sink[") && spelled == "name" {
		return // Consul says that they are deprecated, and goes on
	}
	if d.full() {
		d.omitted++ // a guess costs more than all else
		return
	}
	shown := d.name(spelled)
	if path != "" {
		path += "."
	}
	mend := ""
	if name != "" {
		mend = fmt.Sprintf("; %s is there twice, in two spellings", name)
	} else if guess := t.closest(spelled); guess != "" {
		mend = fmt.Sprintf("; did you mean %s?", guess)
	}
	d.problem(at.at(), "invalid config key %s%s", path+shown, mend)
}

// mismatch refuses a value of a wrong type, without showing it.
func (d *decoder) mismatch(t *keyType, raw any, at *place) {
	want, got, mend := wanted(t.kind), described(raw), ""
	length, _ := items(raw)
	switch text, isText := raw.(string); {
	case isText && (t.kind == intKind || t.kind == uintKind || t.kind == floatKind):
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			mend = "; write it without quotes"
		}
	case isText && t.kind == boolKind && (text == "true" || text == "false"):
		mend = "; write it without quotes"
	case t.kind == stringKind && (got == "a number" || got == "true or false"):
		mend = "; write it in quotes"
	case t.kind == listKind && length < 0:
		mend = "; put it in [ ]"
	case t.kind == structKind && length > 1 && len(d.trail) == 1 && (d.here() == "service" || d.here() == "check"):
		mend = fmt.Sprintf("; write %ss instead", d.here())
	}
	if t.kind == uintKind && got == want {
		want, got = "a number from 0 up", "a negative one"
	}
	d.problem(at.at(), "%s must be %s, not %s%s", cmp.Or(d.here(), "the file"), want, got, mend)
}

func wanted(k kind) string {
	switch k {
	case boolKind:
		return "true or false"
	case intKind, uintKind, floatKind:
		return "a number"
	case stringKind:
		return "text"
	case listKind:
		return "a list"
	case structKind, mapKind:
		return "one block"
	default:
		return "a value"
	}
}

func described(raw any) string {
	switch v := raw.(type) {
	case bool:
		return "true or false"
	case int, float64:
		return "a number"
	case string:
		return "text"
	case map[string]any:
		return "a block"
	case []any:
		if len(v) == 0 {
			return "an empty list"
		}
		return fmt.Sprintf("a list of %d", len(v))
	case []map[string]any:
		return strconv.Itoa(len(v))
	}
	return "something else"
}
