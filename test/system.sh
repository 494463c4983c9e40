#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs the tests of units and packages on booted Debian machines. Their root file system is made once, in the user's cache,
# and never written to again. Arguments go to go test: test/system.sh -run Boot -v
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
suite=bookworm # one release, wherever the tests run: what a package does is judged by what this one's systemd and dpkg do
packages=(ca-certificates conntrack curl dbus ipset iproute2 iptables iputils-ping jq man-db nftables procps rpm systemd systemd-sysv)
# Not every machine has these: they wait as packages in each (machine.Debs).
debs=(ufw firewalld netfilter-persistent iptables-persistent ipset-persistent)

if [ "$(id -u)" != 0 ]; then
  echo "booting a system needs root (mounts, namespaces, containers): sudo env PATH=\"\$PATH\" make test-system" >&2
  exit 1
fi
./test/tools.sh system

# The mirror that this machine uses itself, where it is Debian; elsewhere Debian's.
mirror=http://deb.debian.org/debian
if [ "$(. /etc/os-release && echo "${ID:-}")" = debian ]; then
  uri=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } | awk '
    $1 == "deb" { sub(/\[[^]]*\] */, ""); print $2; exit }
    $1 == "URIs:" { print $2; exit }')
  case $uri in http://*|https://*) mirror=$uri ;; esac
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostagent
hash=$(printf '%s\n' "${packages[@]}" "${debs[@]}" | sha256sum | cut -c1-12)
root=$cache/system-$suite-$hash

# Everything is fetched and unpacked beside its place, which it takes when it is whole.
build_root() {
  local temp=$root.$$ started=$SECONDS
  echo "making a root file system of $suite with systemd once, into $root: takes 2 minutes" >&2
  trap 'rm -rf --one-file-system "$temp" "$temp.log"' EXIT
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus "$suite" "$temp" "$mirror" >"$temp.log" 2>&1 ||
    { tail -20 "$temp.log" >&2; exit 1; }
  printf 'force-unsafe-io\n' >"$temp/etc/dpkg/dpkg.cfg.d/tests"
  printf '#!/bin/sh\nexit 101\n' >"$temp/usr/sbin/policy-rc.d"
  chmod 755 "$temp/usr/sbin/policy-rc.d"
  cp -L /etc/resolv.conf "$temp/etc/resolv.conf"
  { chroot "$temp" apt-get -q update &&
    DEBIAN_FRONTEND=noninteractive chroot "$temp" apt-get -q install -y --no-install-recommends "${packages[@]}" &&
    chroot "$temp" apt-get -q clean &&
    mkdir -p "$temp/var/lib/debs/partial" && chmod 755 "$temp/var/lib/debs"
    # Two of them break others, so each is fetched by itself.
    for deb in "${debs[@]}"; do
      DEBIAN_FRONTEND=noninteractive chroot "$temp" apt-get -q -o Dir::Cache::Archives=/var/lib/debs install -y --download-only --no-install-recommends "$deb" || exit 1
    done; } >>"$temp.log" 2>&1 || { tail -20 "$temp.log" >&2; exit 1; }
  rm -f "$temp/usr/sbin/policy-rc.d" "$temp/etc/resolv.conf"
  mv -T "$temp" "$root"
  rm -f "$temp.log"
  trap - EXIT
  echo "made in $((SECONDS - started)) s" >&2
}

mkdir -p "$cache"
exec {lock}>"$root.lock"
flock "$lock"
if [ ! -d "$root" ]; then build_root; fi
exec {lock}>&-

build=$PWD/.build
mkdir -p "$build"
go build -trimpath -o "$build/" ./cmd/hostagent ./test/app
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN HOSTAGENT_SYSTEM_ROOT=$root HOSTAGENT_TEST_BIN_DIR=$build
# This version as a package, and one to upgrade to; HOSTAGENT_PACKAGES=FOLDER takes what was built before.
if [ -z "${HOSTAGENT_PACKAGES:-}" ]; then
  export HOSTAGENT_PACKAGES=$build/system-packages
  rm -rf "$HOSTAGENT_PACKAGES"
  make -s manual
  HOSTAGENT_PACKAGE_VERSION=v0.1.0 packaging/build.sh "$HOSTAGENT_PACKAGES/now" "$(go env GOARCH)" >&2
  HOSTAGENT_PACKAGE_VERSION=v0.2.0 packaging/build.sh "$HOSTAGENT_PACKAGES/next" "$(go env GOARCH)" >&2
fi
# A process namespace of its own: whatever a test that dies leaves behind ends with it.
exec unshare --mount --pid --fork --kill-child --mount-proc go test -count 1 -timeout 15m -parallel "${SYSTEM_PARALLEL:-3}" "$@" ./test/system
