#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs the tests of units and packages on booted Debian machines. Their root file system is made once, in the user's cache,
# and never written to again. Arguments go to go test: test/system.sh -run Boot -v
set -euo pipefail
cd "$(dirname "$0")/.."
. test/rootfs.sh

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

# The mirror that this machine uses itself, where it has this release; elsewhere Debian's.
mirror=http://deb.debian.org/debian
read_mirror "$suite"

furnish() {
  install_into "$1" "${packages[@]}" && chroot "$1" apt-get -q clean && mkdir -p "$1/var/lib/debs/partial" && chmod 755 "$1/var/lib/debs" || return
  # Two of them break others, so each is fetched by itself.
  for deb in "${debs[@]}"; do
    install_into "$1" -o Dir::Cache::Archives=/var/lib/debs --download-only "$deb" || return
  done
  rm -f "$1/usr/sbin/policy-rc.d" "$1/etc/resolv.conf"
}
need_rootfs system "$suite" "$mirror" --include=systemd,systemd-sysv,dbus "${packages[@]}" "${debs[@]}"

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
