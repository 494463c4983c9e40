# SPDX-License-Identifier: MPL-2.0
# How test/neighbours.sh and test/system.sh, which source this, come to a root file system of Debian's or Ubuntu's packages:
# made once, in the user's cache, under a name that tells its release and what is in it, and never written to again.

# read_mirror sets mirror to the one that this machine uses itself for a suite, where it has one.
read_mirror() {
  local uri
  # One line "deb [options] URI suite ..." of the old form, or the first URI of a paragraph of the new one.
  uri=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } | awk -v suite="$1" '
    $1 == "deb" { sub(/\[[^]]*\] */, ""); if ($3 == suite) { print $2; exit } }
    $1 == "URIs:" { uri = $2 }
    $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == suite && uri != "") { print uri; exit } }')
  case $uri in http://*|https://*) mirror=$uri ;; esac
}

# need_rootfs NAME SUITE MIRROR OPTION PACKAGE... sets root to the file system NAME-SUITE-HASH, the hash being that of the
# packages, and makes it where it is not there yet: with one more option for debootstrap, and with furnish, which the caller
# defines to install into the path that it is given.
need_rootfs() {
  local name=$1 suite=$2 mirror=$3 option=$4 cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostagent lock
  shift 4
  root=$cache/$name-$suite-$(printf '%s\n' "$@" | sha256sum | cut -c1-12)
  mkdir -p "$cache"
  exec {lock}>"$root.lock"
  flock "$lock"
  if [ ! -d "$root" ]; then make_rootfs "$name" "$suite" "$mirror" "$option"; fi
  exec {lock}>&-
}

# make_rootfs fetches and unpacks everything beside its place, which it takes when it is whole.
make_rootfs() {
  local name=$1 suite=$2 mirror=$3 option=$4 temp=$root.$$ started=$SECONDS
  echo "making a root file system of $suite for $name once, into $root: takes 2 minutes" >&2
  # shellcheck disable=SC2064 # the path of now
  trap "rm -rf --one-file-system '$temp' '$temp.log'" EXIT
  { debootstrap --variant=minbase "$option" "$suite" "$temp" "$mirror" &&
    # Nothing starts in there, and what is lost with the power is made again.
    printf '#!/bin/sh\nexit 101\n' >"$temp/usr/sbin/policy-rc.d" && chmod 755 "$temp/usr/sbin/policy-rc.d" &&
    printf 'force-unsafe-io\n' >"$temp/etc/dpkg/dpkg.cfg.d/tests" &&
    cp -L /etc/resolv.conf "$temp/etc/resolv.conf" &&
    chroot "$temp" apt-get -q update && furnish "$temp"; } >"$temp.log" 2>&1 || { tail -20 "$temp.log" >&2; exit 1; }
  mv -T "$temp" "$root"
  rm -f "$temp.log"
  trap - EXIT
  echo "made in $((SECONDS - started)) s" >&2
}

# install_into ROOT [OPTION...] PACKAGE... is apt-get install inside of it. debootstrap's own solver does not know alternatives
# among dependencies, so packages come through apt.
install_into() {
  local into=$1
  shift
  DEBIAN_FRONTEND=noninteractive chroot "$into" apt-get -q install -y --no-install-recommends "$@"
}
