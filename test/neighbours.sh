#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs the tests beside real neighbours: ufw, firewalld, a native nftables ruleset and Docker. None of them is installed on
# this machine: they run inside a small root file system of Debian's or Ubuntu's packages, which is made once, in the user's
# cache, and never written to again. Arguments go to go test: test/neighbours.sh -run Docker -v
set -euo pipefail
cd "$(dirname "$0")/.."
. test/rootfs.sh

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
packages=(ca-certificates conntrack dbus docker.io firewalld ipset iproute2 iptables nftables procps ufw)

if [ "$(id -u)" != 0 ]; then
  echo "the neighbours need root (mounts, namespaces, containers): sudo env PATH=\"\$PATH\" make neighbours" >&2
  exit 1
fi

# The release of this machine, from the mirror that it uses itself; elsewhere Debian's.
suite=bookworm mirror=http://deb.debian.org/debian components=main
read_release() {
  local id codename
  id=$(. /etc/os-release && echo "${ID:-}")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  case $id in
    debian) ;;
    ubuntu) mirror=http://archive.ubuntu.com/ubuntu components=main,universe ;;
    *) return 0 ;;
  esac
  if [ -n "$codename" ]; then suite=$codename; fi
  read_mirror "$suite"
}
if [ -r /etc/os-release ]; then read_release; fi

furnish() {
  printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' >"$1/etc/dpkg/dpkg.cfg.d/neighbours" &&
    install_into "$1" "${packages[@]}" && chroot "$1" apt-get -q clean && rm -rf "$1"/var/lib/apt/lists/*
}
./test/tools.sh rootfs
need_rootfs neighbours "$suite" "$mirror" "--components=$components" "${packages[@]}"

CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN HOSTAGENT_NEIGHBOURS_ROOT=$root
# A process namespace of its own: whatever containers and daemons a test that dies leaves behind ends with it.
exec unshare --mount --pid --fork --kill-child --mount-proc go test -count 1 -timeout 8m -parallel "${NEIGHBOURS_PARALLEL:-4}" "$@" ./test/neighbours
