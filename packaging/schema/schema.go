// SPDX-License-Identifier: MPL-2.0

// Package schema holds the JSON schemas of what hostagent prints for programs. They are files so that others can use them
// without this package.
package schema

import "embed"

//go:embed *.schema.json
var files embed.FS

// Files returns the schemas, each whole in itself: scan.schema.json, plan.schema.json, status.schema.json, audit.schema.json,
// fleet.schema.json and version.schema.json.
func Files() embed.FS { return files }
