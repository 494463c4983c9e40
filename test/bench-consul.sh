#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Measures what hostagent and a real Consul agent cost each other on hosts with 10, 250, 2,000 and 4,000 services, all in
# network namespaces. It takes about an hour, most of it waiting: 200 registrations twice a size, and five idle minutes each.
# Arguments go to benchconsul: -services 10,250 -registrations 20 -idle 10s -raft 0 is done in two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/app ./test/cmd/benchconsul
export HOSTAGENT_TEST_BIN_DIR=$build
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s CPUs, Linux %s, load average %s before the run\n' "$cpu" "$(nproc)" "$(uname -r)" "$(cut -d ' ' -f 1 /proc/loadavg)"
exec "$build/benchconsul" "$@"
