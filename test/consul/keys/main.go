// SPDX-License-Identifier: MPL-2.0

// Command keys prints every key that Consul's configuration files may hold, with its type, as Consul's own decoder sees
// them. Its output is hostagent/consul/configdir/keys.txt; run it again when test/consul/go.mod names another Consul:
//
//	cd test/consul && go run ./keys > ../../hostagent/consul/configdir/keys.txt
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hashicorp/consul/agent/config"
)

func main() {
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cannot print the keys:", err)
		os.Exit(1)
	}
}

func write(to io.Writer) error {
	out := bufio.NewWriter(to)
	p := printer{out: out, places: map[reflect.Type]string{}}
	fmt.Fprintf(out, `# The keys of the configuration files of Consul %s, printed by test/consul/keys; do not edit.
# A line is a key, its type, and with "alias" the older names that Consul takes for it. Keys of a struct follow it, whatever
# list or map it stands in; "=path" stands for the keys that follow path. A pointer is replaced as a whole by a later file.
`, version())
	p.print("", reflect.TypeFor[config.FlagValuesTarget]())
	return out.Flush()
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/hashicorp/consul" {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "(unknown version)"
}

// printer prints the keys of a struct type once, at the first place in the order of keys, and refers to that place elsewhere.
type printer struct {
	out    *bufio.Writer
	places map[reflect.Type]string
}

type key struct {
	name, aliases string
	typ           reflect.Type
}

func (p *printer) print(prefix string, t reflect.Type) {
	for _, k := range keys(t) {
		path := prefix + k.name
		name, element := describe(k.typ)
		fmt.Fprintf(p.out, "%s %s", path, name)
		place, seen := p.places[element]
		if seen {
			fmt.Fprintf(p.out, " =%s", place)
		}
		if k.aliases != "" {
			fmt.Fprintf(p.out, " alias %s", k.aliases)
		}
		fmt.Fprintln(p.out)
		if element != nil && !seen {
			p.places[element] = path
			p.print(path+".", element)
		}
	}
}

// keys are the fields of a struct that mapstructure can set, sorted, those of squashed structs among them.
func keys(t reflect.Type) []key {
	var all []key
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
		switch {
		case options == "squash":
			all = append(all, keys(field.Type)...)
			continue
		case options != "":
			panic("unknown mapstructure option " + options)
		case !field.IsExported():
			continue
		}
		all = append(all, key{name: cmp.Or(name, field.Name), aliases: field.Tag.Get("alias"), typ: field.Type})
	}
	slices.SortFunc(all, func(a, b key) int { return cmp.Compare(a.name, b.name) })
	return all
}

// describe spells a type, and returns the struct that stands in it, nil for none.
func describe(t reflect.Type) (name string, element reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer:
		name, element = describe(t.Elem())
		return "*" + name, element
	case reflect.Slice:
		name, element = describe(t.Elem())
		return "[]" + name, element
	case reflect.Map:
		name, element = describe(t.Elem())
		return "map[" + t.Key().Kind().String() + "]" + name, element
	case reflect.Struct:
		return "struct", t
	case reflect.Interface:
		return "any", nil
	default:
		return t.Kind().String(), nil
	}
}
