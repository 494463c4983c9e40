// SPDX-License-Identifier: MPL-2.0

package config

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is text that must not be shown: every way of printing, logging or encoding it writes "[redacted]", or nothing
// where it is empty, so that a log still tells whether one is set. Only Reveal returns the text.
//
// Package fmt calls no method of what it reaches through an unexported struct field. Keep a Config there by pointer, of
// which %v and %+v print the address, and never print such a struct with %s or %q: those follow the pointer.
type Secret string

// Reveal returns the text itself, for the one place that sends it.
func (s Secret) Reveal() string { return string(s) }

// String returns the redacted form.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString returns the redacted form, quoted.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format writes the redacted form, whatever the verb.
func (s Secret) Format(state fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && state.Flag('#') {
		text = fmt.Sprintf("%q", text)
	}
	// A fmt.State cannot fail: fmt reports write errors to its own caller.
	_, _ = io.WriteString(state, text)
}

// MarshalText returns the redacted form; JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the redacted form.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
