#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs every fuzz target of the repository for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-20s}
said=$(mktemp)
trap 'rm -f "$said"' EXIT
go list ./... | while read -r package; do
  dir=$(go list -f '{{.Dir}}' "$package")
  { grep -ho '^func Fuzz[A-Za-z0-9]*' "$dir"/*_test.go 2>/dev/null || true; } | sed 's/func //' | while read -r target; do
    echo "$package $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 2s "$package" </dev/null >"$said" 2>&1 || { cat "$said"; exit 1; }
    tail -n 1 "$said"
  done
done
