// SPDX-License-Identifier: MPL-2.0

package config

import "fmt"

// layer is one of the sources of values, in the order of growing weight.
type layer int

const (
	layerDefault layer = iota // also what a caller wrote into a field
	layerKV                   // Consul's KV
	layerFile
	layerEnv
	layerFlag
)

// origin is where a value came from.
type origin struct {
	layer layer
	file  string // layerFile; of layerKV the name of the document
	line  int    // layerFile, layerKV
	name  string // the variable or "flag --NAME"
}

// problem makes the error that text describes, in the value of key that came from o.
func (o origin) problem(key, text string) *Error {
	switch o.layer {
	case layerKV, layerFile:
		return &Error{File: o.file, Line: o.line, Text: key + ": " + text}
	case layerEnv, layerFlag:
		return &Error{Text: o.name + ": " + text}
	default:
		return &Error{Text: key + ": " + text}
	}
}

// seenFrom names o in an error whose own place is other, with a leading blank: " (line 6)". It is empty for defaults.
func (o origin) seenFrom(other origin) string {
	switch {
	case o.layer == layerDefault:
		return ""
	case o.layer != layerKV && o.layer != layerFile:
		return " (" + o.name + ")"
	case o.file == other.file:
		return fmt.Sprintf(" (line %d)", o.line)
	}
	return fmt.Sprintf(" (%s:%d)", displayPath(o.file), o.line)
}

// where returns the origin of element i of key; a single value is element 0.
func (c *Config) where(key string, i int) origin {
	if from := c.origins[key]; i < len(from) {
		return from[i]
	}
	return origin{}
}

// setBroken records that a value of key could not be read.
func (c *Config) setBroken(key string) {
	if c.broken == nil {
		c.broken = make(map[string]bool)
	}
	c.broken[key] = true
}

// setOrigins records where the value of key came from. An empty list has no origins and yet is set.
func (c *Config) setOrigins(key string, from []origin) {
	if c.origins == nil {
		c.origins = make(map[string][]origin)
	}
	c.origins[key] = from
}
