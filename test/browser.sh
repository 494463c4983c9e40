#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs the tests that look at the Consul UI with a real browser: google-chrome where it is installed, else chromium.
# HOSTAGENT_CHROMIUM names another one. Arguments go to go test: test/browser.sh -run Hostile -v. Screenshots of each state are
# written to .build/screens, and, reduced, to HOSTAGENT_SCREENS where that names a folder.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0

# find_browser prints the path of a browser that tests can start. A snap's is none: it has a world of its own.
find_browser() {
  local name path
  for name in ${HOSTAGENT_CHROMIUM:-google-chrome google-chrome-stable chromium}; do
    path=$(command -v "$name") || continue
    case $(readlink -f "$path") in */snap) continue ;; esac
    grep -qsI '/snap/bin/' "$path" && continue # Ubuntu's wrapper
    echo "$path"
    return
  done
  return 1
}

if [ "${1-}" = --find ]; then
  find_browser
  exit
fi
./test/tools.sh browser
HOSTAGENT_CHROMIUM=$(find_browser) || { echo "HOSTAGENT_CHROMIUM names no browser: ${HOSTAGENT_CHROMIUM-}" >&2; exit 1; }
build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/app
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN HOSTAGENT_CHROMIUM HOSTAGENT_TEST_BIN_DIR=$build
cd test/browser
exec go test -count 1 -timeout 5m "$@" .
