#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs the tests beside real neighbours: ufw, firewalld, a native nftables ruleset and Docker. None of them is installed on
# this machine: they run inside a small root file system of Debian's or Ubuntu's packages, which is made once, in the user's
# cache, and never written to again. Arguments go to go test: test/neighbours.sh -run Docker -v
set -euo pipefail
cd "$(dirname "$0")/.."

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
  local id codename uri
  id=$(. /etc/os-release && echo "${ID:-}")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  case $id in
    debian) ;;
    ubuntu) mirror=http://archive.ubuntu.com/ubuntu components=main,universe ;;
    *) return 0 ;;
  esac
  if [ -n "$codename" ]; then suite=$codename; fi
  # One line "deb [options] URI suite ..." of the old form, or the first URI of a paragraph of the new one.
  uri=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } | awk -v suite="$suite" '
    $1 == "deb" { sub(/\[[^]]*\] */, ""); if ($3 == suite) { print $2; exit } }
    $1 == "URIs:" { uri = $2 }
    $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == suite && uri != "") { print uri; exit } }')
  case $uri in http://*|https://*) mirror=$uri ;; esac
}
if [ -r /etc/os-release ]; then read_release; fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostagent
hash=$(printf '%s\n' "${packages[@]}" | sha256sum | cut -c1-12)
root=$cache/neighbours-$suite-$hash

# Everything is fetched and unpacked beside its place, which it takes when it is whole.
build_root() {
  local temp=$root.$$ started=$SECONDS
  echo "making a root file system of $suite with ${packages[*]} once, into $root: takes 2 minutes" >&2
  if ! command -v debootstrap >/dev/null; then
    if ! command -v apt-get >/dev/null; then
      echo "missing program: debootstrap; install its package" >&2
      exit 1
    fi
    echo "installing debootstrap with apt-get" >&2
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends debootstrap >/dev/null
  fi
  trap 'rm -rf --one-file-system "$temp" "$temp.log"' EXIT
  debootstrap --variant=minbase --components="$components" "$suite" "$temp" "$mirror" >"$temp.log" 2>&1 ||
    { tail -20 "$temp.log" >&2; exit 1; }
  # Nothing starts in there, nothing is documented, and what is lost with the power is made again.
  printf '#!/bin/sh\nexit 101\n' >"$temp/usr/sbin/policy-rc.d"
  chmod 755 "$temp/usr/sbin/policy-rc.d"
  printf 'force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
    >"$temp/etc/dpkg/dpkg.cfg.d/neighbours"
  # debootstrap's own solver does not know alternatives among dependencies, so the packages come through apt.
  cp -L /etc/resolv.conf "$temp/etc/resolv.conf"
  { chroot "$temp" apt-get -q update &&
    DEBIAN_FRONTEND=noninteractive chroot "$temp" apt-get -q install -y --no-install-recommends "${packages[@]}" &&
    chroot "$temp" apt-get -q clean; } >>"$temp.log" 2>&1 || { tail -20 "$temp.log" >&2; exit 1; }
  rm -rf "$temp"/var/lib/apt/lists/*
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

CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN HOSTAGENT_NEIGHBOURS_ROOT=$root
# A process namespace of its own: whatever containers and daemons a test that dies leaves behind ends with it.
exec unshare --mount --pid --fork --kill-child --mount-proc go test -count 1 -timeout 8m -parallel "${NEIGHBOURS_PARALLEL:-4}" "$@" ./test/neighbours
