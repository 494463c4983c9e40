// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
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
	files, err := listFiles(paths)
	if err != nil {
		return nil, err
	}
	c := &Config{Settings: Settings{values: map[string]Setting{}}}
	if len(files) > maxFiles {
		c.Problems = append(c.Problems, Problem{File: files[maxFiles].path,
			Reason: fmt.Sprintf("is beyond the first %d files; it and what follows were not read", maxFiles)})
		files = files[:maxFiles]
	}
	contents := readAll(files)
	opened := false
	for _, content := range contents {
		opened = opened || content.unreadable == nil
		c.Files = append(c.Files, content.path)
		c.add(content)
	}
	if len(files) > 0 && !opened {
		return nil, fmt.Errorf("cannot read any file: %s %w", quote(files[0].path), contents[0].unreadable)
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
	unreadable error
	problems   []Problem // without File
	root       *object   // nil where there is nothing to decode
}

// readAll reads and decodes files, a few at a time; they do not concern each other before they are merged.
func readAll(files []file) []content {
	contents := make([]content, len(files))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(files)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(files); i = int(next.Add(1)) - 1 {
				contents[i] = files[i].content()
			}
		})
	}
	workers.Wait()
	return contents
}

func (f *file) content() content {
	c := content{path: f.path}
	text, err := f.read()
	if err != nil {
		c.unreadable, c.problems = err, []Problem{{Reason: err.Error()}}
		return c
	}
	if len(text) == 0 {
		return c // Consul takes an empty file for none, in JSON too
	}
	c.root, c.problems = decodeFile(f.format, text)
	return c
}

// decodeFile returns what a file says, and what is wrong with it.
func decodeFile(format string, text []byte) (*object, []Problem) {
	raw, places, err := parse(format, text)
	if err != nil {
		problem := Problem{Reason: err.Error()}
		if syntax, ok := errors.AsType[*syntaxError](err); ok {
			problem.Line = syntax.line
		}
		return nil, []Problem{problem}
	}
	types := consulKeys()
	d := decoder{service: types.keys["service"].pointed(), check: types.keys["check"].pointed()}
	root := d.fields(types, raw, places)
	if d.omitted > 0 {
		d.problems = append(d.problems, Problem{Line: d.problems[maxProblems-1].Line, Reason: fmt.Sprintf("%d more of this kind", d.omitted)})
	}
	return root, d.problems
}

// add merges what one file says into what those before it said.
func (c *Config) add(content content) {
	for _, p := range content.problems {
		c.Problems = append(c.Problems, Problem{File: content.path, Line: p.Line, Reason: p.Reason})
	}
	if content.root == nil {
		return
	}
	// Consul puts the one definition of service {} behind those of services.
	for _, definition := range definitions(content.root, "service") {
		if problems := validateService(content.path, definition); len(problems) > 0 {
			c.Problems = append(c.Problems, problems...)
		} else {
			c.Services = append(c.Services, serviceOf(content.path, definition))
		}
	}
	for _, definition := range definitions(content.root, "check") {
		c.Problems = append(c.Problems, validateNodeCheck(content.path, definition)...)
	}
	replaceDeprecated(content.root)
	c.Settings.merge(content.path, "", consulKeys(), content.root)
}

// definitions are those of the list whose name is the plural, and the one by itself, without those whose types were wrong
// already.
func definitions(root *object, name string) []*object {
	var all []*object
	for _, definition := range append(root.list(name+"s"), root.keys[name]) {
		if o, ok := definition.held.(*object); ok && !o.bad {
			o.line = definition.line
			all = append(all, o)
		}
	}
	return all
}
