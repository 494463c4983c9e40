// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
)

// folderKV answers for keys below "hostagent/" as Consul's KV does, with the files of a folder, whose changes it sees. Where
// the folder is missing, the token has no right to them.
type folderKV struct {
	folder string

	mu    sync.Mutex
	index uint64
	last  []kvPair
}

type kvPair struct {
	Key   string
	Value []byte
}

func (f *folderKV) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	for {
		pairs, index, err := f.read()
		switch {
		case err != nil:
			http.Error(w, `Permission denied: anonymous token lacks permission 'key:list' on "hostagent/"`, http.StatusForbidden)
			return
		case index != asked:
			w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
			if len(pairs) == 0 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_ = json.NewEncoder(w).Encode(pairs) // the client may have gone
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (f *folderKV) read() (pairs []kvPair, index uint64, err error) {
	err = filepath.WalkDir(f.folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		value, err := os.ReadFile(path)
		pairs = append(pairs, kvPair{"hostagent" + strings.TrimPrefix(path, f.folder), value})
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if !cmp.Equal(pairs, f.last) || f.index == 0 {
		f.index++
		f.last = slices.Clone(pairs)
	}
	return pairs, f.index, err
}
