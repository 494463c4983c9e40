#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Measures hostagent as an installed service on a booted Debian machine: exposure of its unit, sizes, how soon it works after
# apt-get install, and what it uses beside Consul on a host where nothing happens, over BENCH_SYSTEM_SECONDS (600). It needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s CPUs, Linux %s, load average %s before the run\n' "$cpu" "$(nproc)" "$(uname -r)" "$(cut -d ' ' -f 1 /proc/loadavg)"
export BENCH_SYSTEM_SECONDS=${BENCH_SYSTEM_SECONDS:-600}
exec ./test/system.sh -run '^$' -bench '^BenchmarkSystem$' -benchtime 1x -timeout "$((BENCH_SYSTEM_SECONDS + 300))s"
