// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

const (
	concealed   = "(token)"
	concealFrom = 8       // as many bytes of a token as tell it
	leastToken  = 4       // bytes; what is shorter is no secret, and stands in every other word
	maxShown    = 4 << 10 // bytes that are looked at of an answer that is to be shown
)

// concealWhole takes token out of a body that is decoded. No agent has a reason to say it; what answers may be somebody who
// shows the request, even as names of services.
func concealWhole(body []byte, token string) []byte {
	if len(token) < leastToken || !bytes.Contains(body, []byte(token)) {
		return body
	}
	return bytes.ReplaceAll(body, []byte(token), []byte(concealed))
}

// conceal takes out of text, which is to be shown, what would tell the token: any eight bytes of it in a row, in either case,
// also of its base64 and hexadecimal forms. Shorter tokens are taken out whole.
func conceal(text, token string) string {
	if len(token) < leastToken {
		return text
	}
	for _, form := range formsOf(token) {
		text = concealForm(text, form)
	}
	return text
}

// formsOf returns how a token may be written. Within other text base64 has three forms, one for each offset; the bytes at
// their ends depend on the neighbours and are left out.
func formsOf(token string) []string {
	forms := []string{token, hex.EncodeToString([]byte(token))}
	for offset := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + token))
		from, to := (offset*8+5)/6, len(encoded)-1
		forms = append(forms, encoded[from:max(from, to)])
	}
	return forms
}

// concealForm replaces each longest run of text that is a part of form. The texts are short: a body that is shown, an error.
func concealForm(text, form string) string {
	window := max(min(concealFrom, len(form)), leastToken)
	lower, lowerForm := asciiLower(text), asciiLower(form)
	var b strings.Builder
	for i := 0; i < len(text); {
		length := 0
		if i+window <= len(text) && strings.Contains(lowerForm, lower[i:i+window]) {
			for length = window; i+length < len(text) && strings.Contains(lowerForm, lower[i:i+length+1]); length++ {
			}
		}
		if length == 0 {
			b.WriteByte(text[i])
			i++
			continue
		}
		b.WriteString(concealed)
		i += length
	}
	return b.String()
}

// asciiLower keeps the length of text in bytes, as strings.ToLower does not.
func asciiLower(text string) string {
	lower := []byte(text)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}

// concealError is conceal for what the transport says: it repeats what is no HTTP.
func concealError(err error, token string) error {
	text := err.Error()
	if shown := conceal(text, token); shown != text {
		return errors.New(shown)
	}
	return err
}
