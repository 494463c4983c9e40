#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Holds alert rules and dashboard to Prometheus' own tools and to a hostagent that runs. promtool is built from its Go module,
# once, which takes two minutes on two cores; Debian's package would start a Prometheus here.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/app
# Without the clients of all clouds, which promtool has for looking up targets.
(cd test/alerts && go vet . && go test . && go build -tags remove_all_sd -o "$build/" . github.com/prometheus/prometheus/cmd/promtool)
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN HOSTAGENT_TEST_BIN_DIR=$build HOSTAGENT_ALERTS_TOOLS=$build

"$build/promtool" check rules --lint-fatal packaging/alerts/hostagent.yml
"$build/promtool" test rules packaging/alerts/hostagent_test.yml
go test -count 1 -timeout 5m "$@" ./test/operate
