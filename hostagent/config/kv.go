// SPDX-License-Identifier: MPL-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Document is settings for a fleet in the language of the files: one key of Consul's KV.
type Document struct {
	Name   string // as errors show it: "kv:hostagent/all.hcl"
	Source []byte
}

const (
	maxDocuments     = 100
	maxDocumentsSize = 512 << 10 // bytes of all together: as much as Consul lets one key hold
	maxKVProblems    = 50        // that are told: whoever writes to the KV decides neither length nor number of log lines
)

// LoadOver reads the configuration from paths as Load does, and puts documents of Consul's KV under it: what they say
// counts where the files say nothing. Among themselves documents merge as files do, in the order given. A list in a file
// replaces that of the documents; exemptions of both count, and those of the documents are marked.
//
// Whoever may write these keys is not who owns the host, so documents may set only what says so in settings, and some of it
// only where the files have set kv_may_enforce. Anything else is an error as an unknown key is, not passed over: nobody
// should believe that it counts.
//
// The error is an Errors. Either it is all about the files, or documents are at fault, and then all of them are to be
// refused. That goes for Validate too, which is to be called as after Load: the whole has to be valid, where Load with the
// same paths is. The Config is nil then.
func LoadOver(under []Document, paths ...string) (*Config, error) {
	c, err := load(DefaultPath, paths)
	if err != nil {
		return nil, err
	}
	if problems := c.putUnder(under); len(problems) > 0 {
		return nil, problems.sorted()
	}
	return c, nil
}

// ReadDocuments reads documents from files and folders, as Load finds them, so that they can be tried before they stand in
// Consul's KV. Each has the path of its file as its name. The error is an Errors.
func ReadDocuments(paths ...string) ([]Document, error) {
	files, problems := listFiles(paths)
	var documents []Document
	for _, file := range files {
		source, problem := readFile(file)
		if problem != nil {
			problems = append(problems, problem)
			continue
		}
		documents = append(documents, Document{file, source})
	}
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	return documents, nil
}

// putUnder puts documents under the values that files have set, and returns what is wrong with them.
func (c *Config) putUnder(documents []Document) Errors {
	if problem := tooMuch(documents); problem != nil {
		return Errors{problem}
	}
	var problems Errors
	whole, inFiles := true, maps.Clone(c.origins)
	for _, document := range documents {
		d := decoder{config: c, layer: layerKV, inFiles: inFiles, aside: Default(), file: document.Name, source: document.Source}
		found, parsed := d.read()
		problems, whole = append(problems, found...), whole && parsed
	}
	if len(problems) > 0 && whole { // as load does; between the files there may be some that flags will mend
		problems = append(problems, slices.DeleteFunc(c.contradictions(), func(problem *Error) bool {
			return !slices.ContainsFunc(documents, func(d Document) bool { return d.Name == problem.File })
		})...)
	}
	if more := len(problems) - maxKVProblems; more > 0 {
		_ = problems.sorted()
		problems = append(problems[:maxKVProblems:maxKVProblems], &Error{Text: fmt.Sprintf("and %d more", more)})
	}
	return problems
}

// tooMuch refuses documents whose reading would keep a host busy.
func tooMuch(documents []Document) *Error {
	size := 0
	for i, document := range documents {
		size += len(document.Source)
		if i == maxDocuments {
			return &Error{File: document.Name, Text: fmt.Sprintf("more than %d documents; put several into one", maxDocuments)}
		}
		if size > maxDocumentsSize {
			return &Error{File: document.Name, Text: fmt.Sprintf("the documents up to this one are larger than %d KiB together", maxDocumentsSize>>10)}
		}
	}
	return nil
}

// kvRight says whether Consul's KV may set a key.
type kvRight int

const (
	kvNever     kvRight = iota // also what a new key has until somebody has thought about it
	kvFree                     // it may
	kvEnforcing                // it may where the files have set kv_may_enforce
)

const (
	neverInKV     = "cannot be set in Consul's KV; set it in the files of each host"
	enforcingInKV = "can be set in Consul's KV only where the host's own files say kv_may_enforce = true"
)

// inKV returns s with a right.
func (s setting) inKV(right kvRight) setting {
	s.kv = right
	return s
}

// kvTakesBlock tells whether KV may set any key of a block.
func kvTakesBlock(name string) bool {
	return slices.ContainsFunc(settings(), func(s setting) bool {
		return s.kv != kvNever && strings.HasPrefix(s.name, name+".")
	})
}

// mayNotSet tells why the document that d reads may not set s, "" where it may.
func (d *decoder) mayNotSet(s setting) string {
	switch {
	case d.layer != layerKV, s.kv == kvFree, s.kv == kvEnforcing && d.config.KVMayEnforce:
		return ""
	case s.kv == kvEnforcing:
		return enforcingInKV
	}
	return neverInKV
}

// holder returns where a value of key is stored. What a file has set, if only to an empty list, stands, and a document's
// value for it is checked and let go.
func (d *decoder) holder(key string) *Config {
	if d.layer != layerKV {
		return d.config
	}
	if _, set := d.inFiles[key]; set {
		return d.aside
	}
	return d.config
}

const maxKVPrefix = 200 // bytes

// checkKVPrefix takes the name of a folder in Consul's KV that a request and a rule of an ACL policy can hold as it is.
func checkKVPrefix(prefix string) error {
	switch {
	case !isPrintable(prefix):
		return fmt.Errorf("%s holds control characters", quote(prefix))
	case len(prefix) > maxKVPrefix:
		return fmt.Errorf("%s has %d bytes; at most %d", quote(prefix), len(prefix), maxKVPrefix)
	case strings.HasPrefix(prefix, "/"):
		meant := strings.TrimLeft(prefix, "/")
		if meant == "" {
			meant = "hostagent/" // nothing would stand for all keys that there are
		}
		return fmt.Errorf(`%s begins with "/", which keys in Consul's KV do not; write %s`, quote(prefix), quote(meant))
	case strings.ContainsAny(prefix, "\"\\") || strings.Contains(prefix, "${") || strings.Contains(prefix, "%{"):
		return fmt.Errorf(`%s holds a quote, a "\", "${" or "%%{", which rules of ACL policies cannot hold`, quote(prefix))
	case strings.HasSuffix(prefix, ".hcl"):
		return fmt.Errorf("%s is one document; write the folder that it lies in, as in \"hostagent/\"", quote(prefix))
	case !strings.HasSuffix(prefix, "/"):
		// Consul compares texts and knows no folders.
		return fmt.Errorf(`%s does not end in "/", and would stand for %s too; write %s`, quote(prefix), quote(prefix+"-other/"), quote(prefix+"/"))
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." { // a request's path would lose them
			return errors.New(quote(prefix) + ` holds an empty name, "." or ".."`)
		}
	}
	return nil
}
