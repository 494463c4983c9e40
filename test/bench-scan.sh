#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Measures hostagent scan beside ss, lsof, netstat and a program that uses gopsutil, on a host with 2,000 listeners in 500
# processes and up to 50,000 connections, all in a network namespace. It needs root, 3 GB of memory and two minutes; ROUNDS
# (7) is how often each program runs.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
[ "$(id -u)" = 0 ] || { echo "bench-scan: run it as root: peers name other users' processes only then" >&2; exit 1; }
missing=()
command -v lsof >/dev/null || missing+=(lsof)
command -v netstat >/dev/null || missing+=(net-tools)
[ -x /usr/bin/time ] || missing+=(time)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]} with apt-get" >&2
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/cmd/benchscan
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s CPUs, Linux %s, load average %s before the run\n' "$cpu" "$(nproc)" "$(uname -r)" "$(cut -d ' ' -f 1 /proc/loadavg)"
exec "$build/benchscan" "$build/hostagent" "${ROUNDS:-7}"
