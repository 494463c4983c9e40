// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// Settings are an agent's settings in Consul's own words: by key in lower case, joined by dots
// ("acl.tokens.agent", "ports.http"); names that the operator chose, as in "node_meta.Rack", keep their case. Older names
// of a key are replaced by the one that counts. They hold secrets, so whoever shows one picks it by key. The zero value
// holds none.
type Settings struct {
	values map[string]Setting
}

// Setting is one value and where it comes from. Value is a bool, int64, float64, string, []any of these and of
// map[string]any, or, in a map whose names the operator chose, map[string]any; the line is that of the last file that set
// it or added to it. It is shared: read only.
type Setting struct {
	Value any
	File  string
	Line  int
}

// Lookup returns the setting of a key, and false where no file sets it; defaults of the agent do not count.
func (s Settings) Lookup(key string) (Setting, bool) {
	setting, ok := s.values[key]
	return setting, ok
}

// Files are those that set something, or add to it, which no later file sets; sorted.
func (s Settings) Files() []string {
	var files []string
	for _, setting := range s.values {
		files = append(files, setting.File)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// Hash stands for the secret that a key holds ("acl.tokens.default"), so that it can be compared and nothing else; zero where
// no file sets it.
func (s Settings) Hash(key string) consul.TokenHash {
	secret, _ := s.values[key].Value.(string)
	return consul.HashSecret(secret)
}

// definitionKeys are those of a file that hold definitions and no settings.
var definitionKeys = [...]string{"service", "services", "check", "checks"}

// merge lays the settings of a file over those of the files before it, as Consul does: lists grow, maps take over the names
// they have, and a struct is merged by its keys, unless it is a pointer in Consul: then the later one counts alone.
func (s Settings) merge(path, prefix string, t *keyType, o *object) {
	for name, v := range o.keys {
		if prefix == "" && slices.Contains(definitionKeys[:], name) {
			continue
		}
		key, keyType := prefix+strings.ToLower(name), t.keys[name]
		if keyType.kind == pointerKind && keyType.elem.kind == structKind {
			for inner := range keyType.elem.keys {
				delete(s.values, key+"."+strings.ToLower(inner))
			}
		}
		setting := Setting{Value: settingValue(v.held), File: path, Line: v.line}
		switch keyType = keyType.pointed(); keyType.kind {
		case structKind:
			s.merge(path, key+".", keyType, v.held.(*object))
		case mapKind:
			for name, v := range v.held.(*object).keys {
				s.values[key+"."+name] = Setting{Value: settingValue(v.held), File: path, Line: v.line}
			}
		case listKind:
			before, _ := s.values[key].Value.([]any)
			setting.Value = append(before, setting.Value.([]any)...)
			s.values[key] = setting
		default:
			s.values[key] = setting
		}
	}
}

// settingValue takes the lines out of a value.
func settingValue(held any) any {
	switch v := held.(type) {
	case uint64:
		return int64(v)
	case []value:
		list := make([]any, 0, len(v))
		for _, item := range v {
			list = append(list, settingValue(item.held))
		}
		return list
	case *object:
		m := make(map[string]any, len(v.keys))
		for key, item := range v.keys {
			m[key] = settingValue(item.held)
		}
		return m
	}
	return held
}

// replaceDeprecatedUI does after merging what Consul does after merging.
func (s Settings) replaceDeprecatedUI() {
	for _, r := range [...]replacement{
		{"ui", "ui_config.enabled"}, {"ui_dir", "ui_config.dir"}, {"ui_content_path", "ui_config.content_path"},
	} {
		setting, ok := s.values[r.old]
		if _, exists := s.values[r.now]; ok && !exists {
			s.values[r.now] = setting
		}
		delete(s.values, r.old)
	}
}
