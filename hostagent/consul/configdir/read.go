// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
)

// Read reads files and folders as an agent does that gets them as -config-file and -config-dir, in this order. It fails
// only where nothing can be read: a path is missing, or none of its files can be opened. All else is in Config.Problems:
// what concerns one definition takes that definition away, what concerns one setting that setting, and what concerns the
// syntax of a file the file.
//
// What an agent refuses for reasons outside services, checks and ports (no data_dir, bootstrap_expect on a client) is no
// Problem: paths may be a part of what the agent is started with. For the same reason, a check that runs a script is taken,
// though an agent refuses it unless enable_local_script_checks is set somewhere; so is one of a service that no file
// defines, for the agent may have it from its API. Nor does Read run the templates ({{ GetPrivateIP }}) that some
// addresses may hold.
func Read(paths ...string) (*Config, error) {
	files, skipped, err := listFiles(paths)
	if err != nil {
		return nil, err
	}
	c := &Config{Skipped: skipped, Settings: Settings{values: map[string]Setting{}}, Secrets: map[string]Secret{}}
	if len(files) > maxFiles {
		c.Problems = append(c.Problems, Problem{File: files[maxFiles].path,
			Reason: fmt.Sprintf("is beyond the first %d files; it and what follows were not read", maxFiles)})
		files = files[:maxFiles]
	}
	if err := c.addAll(files); err != nil {
		return nil, err
	}
	c.Settings.replaceDeprecatedUI()
	c.checkPorts()
	order := make(map[string]int, len(c.Files))
	for i, path := range c.Files {
		order[path] = i
	}
	slices.SortStableFunc(c.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line))
	})
	return c, nil
}

// content is what one file says by itself.
type content struct {
	path       string
	size       int // bytes
	unreadable error
	findings   findings
	root       *object // nil where there is nothing to decode
	decoded    bool    // root is all that the file says
}

// addAll merges files in their order, as long as there are not too many bytes in them. It fails where not one of them can
// be opened.
func (c *Config) addAll(files []file) error {
	var unopened error // the first
	opened, size := false, 0
	for content := range inOrder(files) {
		if size += content.size; size > maxTotalSize {
			c.Problems = append(c.Problems, Problem{File: content.path,
				Reason: fmt.Sprintf("is beyond the first %d MiB; it and what follows were not read", maxTotalSize>>20)})
			return nil
		}
		if content.unreadable == nil {
			opened = true
		} else if unopened == nil {
			unopened = fmt.Errorf("cannot read any file: %s %w", strconv.Quote(content.path), content.unreadable)
		}
		c.Files = append(c.Files, content.path)
		c.add(content)
	}
	if opened {
		return nil
	}
	return unopened
}

// filesAhead bounds how many decoded files are in memory: a hostile one takes some hundred times its size.
const filesAhead = 4

// inOrder reads and decodes files side by side, for they do not concern each other before they are merged, but only a few
// of them ahead of the one that is being merged.
func inOrder(files []file) iter.Seq[content] {
	return func(yield func(content) bool) {
		var running sync.WaitGroup
		defer running.Wait()
		var ahead [filesAhead]chan content
		started := 0
		for i := range files {
			for ; started < min(i+filesAhead, len(files)); started++ {
				f, result := &files[started], make(chan content, 1)
				ahead[started%filesAhead] = result
				running.Go(func() { result <- f.content() })
			}
			if !yield(<-ahead[i%filesAhead]) {
				return
			}
		}
	}
}

func (f *file) content() content {
	c := content{path: f.path}
	text, err := f.read()
	if err != nil {
		c.unreadable = err
		c.findings.add(0, "", "%v", err)
		return c
	}
	c.size = len(text)
	if len(text) == 0 {
		c.decoded = true
		return c // Consul takes an empty file for none, in JSON too
	}
	c.root, c.findings = decodeFile(f.format, text)
	c.decoded = c.root != nil
	return c
}

// decodeFile returns what a file says, and what is wrong with it.
func decodeFile(format string, text []byte) (*object, findings) {
	raw, places, err := parse(format, text)
	if err != nil {
		problem := Problem{Reason: err.Error()}
		if syntax, ok := errors.AsType[*syntaxError](err); ok {
			problem.Line = syntax.line
		}
		return nil, findings{problems: []Problem{problem}}
	}
	types := consulKeys()
	d := decoder{service: types.keys["service"].pointed(), check: types.keys["check"].pointed()}
	return d.fields(types, raw, places), d.findings
}

// add merges what one file says into what those before it said.
func (c *Config) add(content content) {
	found := content.findings
	if content.root != nil {
		c.addDefinitions(content.path, content.root, &found)
		replaceDeprecated(content.root)
		c.Settings.merge(content.path, "", consulKeys(), content.root)
	}
	if content.decoded {
		c.Secrets[content.path] = secretsOf(content.root)
	}
	c.Problems = append(c.Problems, found.of(content.path)...)
}

func (c *Config) addDefinitions(path string, root *object, found *findings) {
	// Consul puts the one definition of service {} behind those of services.
	for _, definition := range definitions(root, "service") {
		before := found.found()
		validateService(found, definition)
		if !definition.bad && found.found() == before {
			c.Services = append(c.Services, serviceOf(path, definition))
		}
	}
	for _, definition := range definitions(root, "check") {
		validateNodeCheck(found, definition)
	}
}

// definitions are those of the list whose name is the plural, and the one by itself.
func definitions(root *object, name string) []*object {
	var all []*object
	for _, definition := range append(root.list(name+"s"), root.keys[name]) {
		if o, ok := definition.held.(*object); ok {
			o.line = definition.line
			all = append(all, o)
		}
	}
	return all
}
