// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// decodeList reads a JSON list of at most the given number of entries, one at a time. Its errors quote nothing: the list may
// hold secrets. An answer of null, which Consul gives for some empty lists, is an empty one.
func decodeList[T any](body []byte, most int, what string) ([]T, error) {
	if !utf8.Valid(body) {
		return nil, errNoUTF8
	}
	if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
		return nil, errors.New("it is no JSON list; is that the address of a Consul agent?")
	}
	var list []T
	for decoder.More() {
		if len(list) == most {
			return nil, fmt.Errorf("it has more than %d %s", most, what)
		}
		var entry *T
		if err := decoder.Decode(&entry); err != nil {
			return nil, unquoted(err)
		}
		if entry == nil {
			return nil, errSecretShape
		}
		list = append(list, *entry)
	}
	if _, err := decoder.Token(); err != nil { // the end of the list
		return nil, unquoted(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the list")
	}
	return list, nil
}
