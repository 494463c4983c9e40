#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Measures hostagent on this machine, its peers in the same run, and prints a summary with targets at the end. It takes
# about eight minutes, one of them idle; on a machine that does something else meanwhile the figures are worth less. A
# missed target is shown and is no failure: what cannot be measured is one.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
build=$PWD/.build
mkdir -p "$build"
go build -o "$build/" ./cmd/hostagent ./test/app
export HOSTAGENT_TEST_BIN_DIR=$build
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN

results=$build/bench.txt
load=$(cut -d ' ' -f 1 /proc/loadavg)
packages=(./firewall ./sockets ./hostagent ./test/bench)
go test -run '^$' "${packages[@]}" >/dev/null # compiles, so that no compiler runs beside a benchmark
# One package after the other. Three short runs each, of which the summary takes the middle one.
go test -p 1 -run '^$' -bench . -skip '^Benchmark(Idle|Repair|Replace|Watch|Heard|Polled|Storm)$' -benchtime 300ms -count 3 "${packages[@]}" | tee "$results"
go test -run '^$' -bench '^BenchmarkRepair$' -benchtime 100x ./firewall | tee -a "$results"
go test -run '^$' -bench '^BenchmarkReplace$' -benchtime 1x ./firewall | tee -a "$results"
go test -run '^$' -bench '^BenchmarkWatch$' -benchtime 1000x ./sockets | tee -a "$results"
go test -run '^$' -bench '^BenchmarkHeard$' -benchtime 1000x ./test/bench | tee -a "$results"
go test -run '^$' -bench '^BenchmarkPolled$' -benchtime 40x ./test/bench | tee -a "$results"
go test -run '^$' -bench '^BenchmarkStorm$' -benchtime 1x ./test/bench | tee -a "$results"
go test -run '^$' -bench '^BenchmarkIdle$' -benchtime 1x ./test/bench | tee -a "$results"

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '\n%s, %s CPUs, Linux %s, %s, load average %s before the run\n' "$cpu" "$(nproc)" "$(uname -r)" "$(go env GOVERSION)" "$load"
go run ./test/bench <"$results"
