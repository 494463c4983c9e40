// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	_ "embed"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/agext/levenshtein"
)

// keysText lists every key that Consul's configuration files may hold; test/consul/keys prints it from Consul itself.
//
//go:embed keys.txt
var keysText string

// consulKeys is the type of a whole configuration file.
var consulKeys = sync.OnceValue(func() *keyType { return parseKeys(keysText) })

// kind is what a key holds, in the terms of mapstructure.
type kind int

const (
	anyKind kind = iota // whatever the file says
	boolKind
	intKind
	uintKind // refuses negative numbers
	floatKind
	stringKind
	pointerKind // decoded twice, so a list of one list of one value is unwrapped twice; replaced as a whole in a merge
	listKind
	mapKind
	structKind
)

// keyType is the type of a key. Types are shared and refer to each other in circles: read only.
type keyType struct {
	kind kind
	elem *keyType // of a pointer, list or map

	// Of a struct: its keys as Consul spells them; their spellings by fold; and what stands for a key by alias, in
	// lower case.
	keys    map[string]*keyType
	folds   map[string]string
	aliases map[string]string
}

// parseKeys reads the format that the head of keys.txt explains. The text is embedded, so what is wrong with it is a
// mistake of ours and panics at the first test.
func parseKeys(text string) *keyType {
	root := newStruct()
	structs := map[string]*keyType{"": root} // by path
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		path, spelled, rest := fields[0], fields[1], fields[2:]
		var element *keyType
		if len(rest) > 0 && rest[0][0] == '=' {
			element, rest = structs[rest[0][1:]], rest[1:]
		} else if strings.HasSuffix(spelled, "struct") {
			element = newStruct()
			structs[path] = element
		}
		parentPath, name := "", path
		if dot := strings.LastIndexByte(path, '.'); dot >= 0 {
			parentPath, name = path[:dot], path[dot+1:]
		}
		parent := structs[parentPath]
		parent.keys[name] = spelledType(spelled, element)
		parent.folds[fold(name)] = name
		if len(rest) == 2 && rest[0] == "alias" {
			for alias := range strings.SplitSeq(rest[1], ",") {
				parent.aliases[strings.ToLower(alias)] = strings.ToLower(name)
			}
		}
	}
	return root
}

func newStruct() *keyType {
	return &keyType{kind: structKind, keys: map[string]*keyType{}, folds: map[string]string{}, aliases: map[string]string{}}
}

func spelledType(spelled string, element *keyType) *keyType {
	if rest, ok := strings.CutPrefix(spelled, "*"); ok {
		return &keyType{kind: pointerKind, elem: spelledType(rest, element)}
	}
	if rest, ok := strings.CutPrefix(spelled, "[]"); ok {
		return &keyType{kind: listKind, elem: spelledType(rest, element)}
	}
	if rest, ok := strings.CutPrefix(spelled, "map[string]"); ok {
		return &keyType{kind: mapKind, elem: spelledType(rest, element)}
	}
	switch spelled {
	case "struct":
		return element
	case "any":
		return &keyType{kind: anyKind}
	case "bool":
		return &keyType{kind: boolKind}
	case "int":
		return &keyType{kind: intKind}
	case "uint", "uint32", "uint64":
		return &keyType{kind: uintKind}
	case "float64":
		return &keyType{kind: floatKind}
	case "string":
		return &keyType{kind: stringKind}
	}
	panic("keys.txt has an unknown type " + spelled)
}

// pointed is what t holds, be it a pointer or not.
func (t *keyType) pointed() *keyType {
	for t.kind == pointerKind {
		t = t.elem
	}
	return t
}

// closest returns the key of a struct that a wrong one is most likely a slip of, or "": the API's spelling, or two letters
// off.
func (t *keyType) closest(wrong string) string {
	if len(wrong) > maxShown {
		return ""
	}
	squeeze := func(key string) string { return strings.ReplaceAll(strings.ToLower(key), "_", "") }
	wrong = squeeze(wrong)
	best, guess := 6, ""
	for _, name := range slices.Sorted(maps.Keys(t.keys)) {
		key := squeeze(name)
		distance := 2 * levenshtein.Distance(wrong, key, nil)
		if distance > len(key) {
			continue
		}
		if len(key) != len(wrong) {
			distance++ // letters change places more often than they go missing
		}
		if distance < best {
			best, guess = distance, name
		}
	}
	return guess
}

// fold makes two keys equal where strings.EqualFold calls them equal, by which mapstructure matches keys; that includes
// letters such as the long s.
func fold(key string) string {
	ascii := true
	for i := range len(key) {
		ascii = ascii && key[i] < utf8.RuneSelf
	}
	if ascii {
		return strings.ToUpper(key)
	}
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, key)
}
