// SPDX-License-Identifier: MPL-2.0

// Package schema holds real output to the shipped JSON schemas.
package schema

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hostagent/hostagent/packaging/schema"
)

// strict reads one of the shipped schemas, made stricter: they let documents have fields that are added later, but
// what this version writes must all be described.
func strict(name string) (*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	names, err := fs.Glob(schema.Files(), "*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(schema.Files(), name)
		if err != nil {
			return nil, err
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := tighten(document); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := compiler.AddResource("file:///"+name, document); err != nil {
			return nil, err
		}
	}
	return compiler.Compile("file:///" + name + ".schema.json")
}

// tighten forbids properties that are not described, and requires all that are.
func tighten(node any) error {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			if err := tighten(item); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, item := range node {
			if err := tighten(item); err != nil {
				return err
			}
		}
		properties, ok := node["properties"].(map[string]any)
		if !ok {
			return nil
		}
		node["additionalProperties"] = false
		required, _ := node["required"].([]any)
		if len(required) != len(properties) {
			return fmt.Errorf("an object describes %d properties and requires %d", len(properties), len(required))
		}
	}
	return nil
}

// Validate holds a document to the shipped schema of that name, "scan", "plan", "status", "audit", "fleet" or "version".
func Validate(name, document string) error {
	schema, err := strict(name)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(document))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}
