// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	shipped "github.com/hostagent/hostagent/packaging/schema"
	"github.com/hostagent/hostagent/test/schema"
)

// fitsCommand is "fits NAME FILE": the file, or stdout, is as the schema of that name describes.
func fitsCommand(ts *testscript.TestScript, neg bool, args []string) {
	err := schema.Validate(args[0], ts.ReadFile(args[1]))
	if (err != nil) != neg {
		ts.Fatalf("%s against schema %s: %v", args[1], args[0], err)
	}
}

// TestSchemasCanFail: the same documents, a little wrong, do not fit.
func TestSchemasCanFail(t *testing.T) {
	good, err := json.Marshal(scans()["many"].Document("1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, scan := range scans() {
		if scan.Source == "" {
			continue // a scan that was never made
		}
		text, err := jsonText(scan.Document("1"))
		if err == nil {
			err = schema.Validate("scan", text)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, change := range [][2]string{
		{`"schema_version":1`, `"schema_version":2`},
		{`"state":"open"`, `"state":"ajar"`},
		{`"severity":"warning"`, `"severity":1`},
		{`"notes":`, `"nodes":`},
		{`"node":`, `"extra":1,"node":`},
		{`"protocol":"tcp"`, `"protocol":"sctp"`},
		{`"sidecar_range":"21000-21255"`, `"sidecar_range":"21000"`},
		{`"started":"`, `"start":"`},
		{`"listeners":[],"published"`, `"published"`},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Errorf("the document holds no %s", change[0])
		} else if schema.Validate("scan", bad) == nil {
			t.Errorf("with %s it still fits", change[1])
		}
	}
}

// TestVersionsFitTheirSchema: those that know their commit and those that do not, and a wrong one does not.
func TestVersionsFitTheirSchema(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	full := buildDocument(&debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: commit}, {Key: "vcs.time", Value: "2026-02-03T04:05:06Z"}, {Key: "vcs.modified", Value: "true"},
	}})
	if full.Commit != commit || full.CommitTime != "2026-02-03T04:05:06Z" || !full.Modified {
		t.Errorf("what the toolchain recorded is lost: %+v", full)
	}
	for _, document := range []versionDocument{full, buildDocument(new(debug.BuildInfo))} {
		text, err := jsonText(document)
		if err == nil {
			err = schema.Validate("version", text)
		}
		if err != nil {
			t.Error(err)
		}
	}
	good, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"schema_version":1`, `"schema_version":2`}, {commit, "v1.0"}, {"2026-02-03T04:05:06Z", "yesterday"},
		{`"modified":true`, `"modified":"yes"`}, {`"os":`, `"system":`},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) || schema.Validate("version", bad) == nil {
			t.Errorf("with %s it still fits", change[1])
		}
	}
}

// TestSchemasAgree: what has one name in several schemas is the same in all.
func TestSchemasAgree(t *testing.T) {
	seen := map[string]any{}
	for _, name := range []string{"scan", "plan", "status", "audit", "fleet"} {
		text, err := shipped.Files().ReadFile(name + ".schema.json")
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Defs map[string]any `json:"$defs"`
		}
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		for name, definition := range document.Defs {
			if other, ok := seen[name]; ok {
				if diff := cmp.Diff(other, definition); diff != "" {
					t.Errorf("%s differs:\n%s", name, diff)
				}
			}
			seen[name] = definition
		}
	}
	if len(seen) < 5 {
		t.Errorf("the schemas share only %d definitions", len(seen))
	}
}
