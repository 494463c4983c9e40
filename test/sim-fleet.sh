#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Measures what the hostagents of a datacenter cost its Consul server: N simulated hosts (default 1000), each with a real Consul
# client agent and hostagent's real reporting code, against one real server, in a network namespace. A thousand hosts take
# about eight minutes and 7 GB of memory; N=20 takes three minutes. Further arguments go to simfleet: -services 8 -poll 1s.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/cmd/simfleet
go build -C test/fleet -o "$build/fleet-agents" . # as Consul itself is built, whose packages the cache then has
CONSUL_BIN=$(go run ./test/cmd/consul -print)
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s CPUs, Linux %s, load average %s before the run\n' "$cpu" "$(nproc)" "$(uname -r)" "$(cut -d ' ' -f 1 /proc/loadavg)"
# Whoever ends this script ends simfleet at once, and with it its programs; what they wrote goes here.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
"$build/simfleet" -consul "$CONSUL_BIN" -agents "$build/fleet-agents" -hostagent "$build/hostagent" -hosts "${N:-1000}" "$@"
