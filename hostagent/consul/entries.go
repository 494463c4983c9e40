// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// errNoUTF8 is what json.Unmarshal would mend, and make another name of a name.
var errNoUTF8 = errors.New("the answer is no UTF-8")

// decodeEntries reads a JSON object of entries by their ids and refuses one that names an id twice: json.Unmarshal would
// take the last of them without a word, and nobody could tell which of the two stands.
func decodeEntries[T any](body []byte) (map[string]*T, error) {
	if err := object(body); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, err
	}
	entries := map[string]*T{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		id, _ := key.(string) // nothing else stands before a colon
		if _, twice := entries[id]; twice {
			return nil, fmt.Errorf("the entry %s stands there twice", shortID(id))
		}
		var entry *T
		if err := decoder.Decode(&entry); err != nil {
			return nil, err
		}
		entries[id] = entry
	}
	if _, err := decoder.Token(); err != nil { // the brace at the end
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return entries, nil
}

// otherEntry refuses an entry that is not the one that its id promises.
func otherEntry(what, id string) error {
	return fmt.Errorf("the entry %s does not describe the %s of that id", shortID(id), what)
}

func shortID(id string) string { return strconv.QuoteToASCII(truncate(id, 80)) }
