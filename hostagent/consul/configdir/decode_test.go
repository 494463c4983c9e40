// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mitchellh/mapstructure"
)

// TestDecodeAsMapstructure compares decoder with the library that Consul decodes with.
func TestDecodeAsMapstructure(t *testing.T) {
	for _, tt := range problemCases {
		for _, format := range []string{"hcl", "json"} {
			compareDecoders(t, format, []byte(tt.text))
		}
	}
	for _, text := range decodeSeeds {
		compareDecoders(t, "json", []byte(text))
		compareDecoders(t, "hcl", []byte(text))
	}
}

var decodeSeeds = []string{
	`{"services": [{"name": ["web"], "port": [[80]], "tags": [["a"]], "meta": [{"a": ["b"]}]}]}`,
	`{"services": [{"name": [["web"]]}]}`,
	`{"services": [{"name": [[["web"]]]}]}`,
	`{"service": [[{"name": "web"}]]}`,
	`{"services": [{"proxy": {"local_service_socket_path": ["x"]}}]}`,
	`{"services": [{"proxy": {"local_service_socket_path": [["x"]]}}]}`,
	`{"services": [null], "checks": null, "node_meta": {"a": null}, "recursors": [null]}`,
	`{"service": {"port": 8e3, "connect": {}, "weights": null, "checks": [{"scriptArgs": ["x"], "TLSSkipVerify": true}]}}`,
	`{"service": {"tagged_addresses": {"lan": {"port": 1.9}, "wan": [{"port": 1}], "x": []}}}`,
	`{"service": {"proxy": {"config": {"a": [{"b": [1]}], "c": [[1]]}, "upstreams": [[{"config": null}]]}}}`,
	"{\"\u017fervice\": {\"name\": \"web\", \"soc\u212aet_path\": 1}, \"SERVER\": true}",
	`{"audit": {"sink": {"a": {"name": "x", "type": "file"}}}, "acl_enforce_version_8": 1, "build_date": {}, "tls": {"-": {}}}`,
	`{"dns_config": {"soa": {"refresh": -1}}, "limits": {"rpc_rate": 1, "kv_max_value_size": -0.5}}`,
	`{"telemetry": {"dogstatsd_tags": "x"}, "watches": [{"a": 1}], "snapshot_agent": []}`,
}

// FuzzDecode looks for texts on which decoder and mapstructure differ.
func FuzzDecode(f *testing.F) {
	for _, tt := range problemCases {
		f.Add(strings.HasSuffix(tt.file, "hcl"), []byte(tt.text))
	}
	for _, text := range decodeSeeds {
		f.Add(false, []byte(text))
	}
	f.Add(true, []byte(fmt.Sprintf(benchHCL, 1, 2)))
	f.Fuzz(func(t *testing.T, isHCL bool, text []byte) {
		format := "json"
		if isHCL {
			format = "hcl"
		}
		compareDecoders(t, format, text)
	})
}

func compareDecoders(t *testing.T, format string, text []byte) {
	t.Helper()
	raw, places, err := parse(format, text)
	if err != nil || ambiguous(raw) {
		return
	}
	again, _, _ := parse(format, text) // the decoder unwraps lists in place
	d := decoder{}
	d.fields(consulKeys(), raw, places)
	if theirs := oracle(again); (theirs == nil) != (len(d.problems) == 0) {
		t.Errorf("%s %q\nmapstructure: %v\nours: %v", format, text, theirs, d.problems)
	}
}

// ambiguous finds objects in which one key is there in several spellings: mapstructure takes the one that it meets first.
func ambiguous(raw any) bool {
	switch v := raw.(type) {
	case map[string]any:
		seen := map[string]bool{}
		for key, inner := range v {
			key = strings.ReplaceAll(fold(key), "_", "")
			key = strings.TrimPrefix(strings.Replace(key, "NONVOTINGSERVER", "READREPLICA", 1), "SCRIPT")
			if seen[key] || ambiguous(inner) {
				return true
			}
			seen[key] = true
		}
	case []any:
		return slices.ContainsFunc(v, ambiguous)
	case []map[string]any:
		return slices.ContainsFunc(v, func(m map[string]any) bool { return ambiguous(m) })
	}
	return false
}

// oracle decodes with mapstructure into types that are made from keys.txt; it returns why Consul would refuse raw.
func oracle(raw map[string]any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var metadata mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		DecodeHook: mapstructure.ComposeDecodeHookFunc(unwrapHook, aliasHook),
		Metadata:   &metadata,
		Result:     reflect.New(oracleType()).Interface(),
	})
	if err != nil {
		return err
	}
	if err := decoder.Decode(raw); err != nil {
		return err
	}
	for _, key := range metadata.Unused {
		if key == "acl_enforce_version_8" || strings.HasPrefix(key, "audit.sink[") && strings.HasSuffix(key, "].name") {
			continue
		}
		return fmt.Errorf("unused %q", key)
	}
	return nil
}

// unwrapHook is HookWeakDecodeFromSlice, but for what stands in values of open types: they are never refused.
func unwrapHook(from, to reflect.Type, data any) (any, error) {
	if from.Kind() == reflect.Slice && to.Kind() != reflect.Slice {
		if list := reflect.ValueOf(data); list.Len() == 1 {
			return list.Index(0).Interface(), nil
		}
	}
	return data, nil
}

// aliasHook is HookTranslateKeys.
func aliasHook(_, to reflect.Type, data any) (any, error) {
	source, ok := data.(map[string]any)
	if !ok || to.Kind() != reflect.Struct {
		return data, nil
	}
	names := map[string]string{}
	for i := range to.NumField() {
		field := to.Field(i)
		if field.Tag.Get("alias") == "" {
			continue
		}
		for alias := range strings.SplitSeq(field.Tag.Get("alias"), ",") {
			names[alias] = field.Tag.Get("mapstructure")
		}
	}
	result := map[string]any{}
	for key, v := range source {
		if name := names[strings.ToLower(key)]; name != "" {
			key = name
		}
		result[key] = v
	}
	return result, nil
}

// oracleType is what a file decodes into; a sidecar in a sidecar in a sidecar is taken for anything, for types that
// contain themselves cannot be made.
var oracleType = sync.OnceValue(func() reflect.Type { return goType(consulKeys(), 4) })

func goType(t *keyType, depth int) reflect.Type {
	switch t.kind {
	case boolKind:
		return reflect.TypeFor[bool]()
	case intKind:
		return reflect.TypeFor[int]()
	case uintKind:
		return reflect.TypeFor[uint64]()
	case floatKind:
		return reflect.TypeFor[float64]()
	case stringKind:
		return reflect.TypeFor[string]()
	case pointerKind:
		if t.elem == consulKeys().keys["service"].elem {
			if depth--; depth < 0 {
				return reflect.TypeFor[any]()
			}
		}
		return reflect.PointerTo(goType(t.elem, depth))
	case listKind:
		return reflect.SliceOf(goType(t.elem, depth))
	case mapKind:
		return reflect.MapOf(reflect.TypeFor[string](), goType(t.elem, depth))
	case structKind:
		var fields []reflect.StructField
		for name, keyType := range t.keys {
			var aliases []string
			for alias, of := range t.aliases {
				if of == name {
					aliases = append(aliases, alias)
				}
			}
			fields = append(fields, reflect.StructField{
				Name: fmt.Sprintf("F%d", len(fields)), Type: goType(keyType, depth),
				Tag: reflect.StructTag(fmt.Sprintf(`mapstructure:%q alias:%q`, name, strings.Join(aliases, ","))),
			})
		}
		return reflect.StructOf(fields)
	default:
		return reflect.TypeFor[any]()
	}
}
