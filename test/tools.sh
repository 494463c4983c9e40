#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Installs, through apt, the programs that tests and demo run and that are missing. Says what it does; does nothing where
# all are there. An argument adds what some tests need besides:
#   gcc       a C compiler, for the race detector
#   rootfs    what makes a root file system
#   system    that, and what boots one in a container
#   browser   a browser, where there is none that the tests can use
#   manual    what reads manual pages and completions
#   packages  what looks at packages
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:/usr/sbin:/sbin
declare -A package=([iptables]=iptables [iptables-legacy]=iptables [ip]=iproute2 [ss]=iproute2 [ipset]=ipset [nft]=nftables [setpriv]=util-linux)
case ${1-} in
  gcc) package[gcc]="gcc libc6-dev" ;;
  rootfs) package[debootstrap]=debootstrap ;;
  system) package[debootstrap]=debootstrap package[systemd-nspawn]=systemd-container package[ping]=iputils-ping package[nc]=netcat-openbsd ;;
  browser)
    # Ubuntu's package of that name only fetches a snap, which sees neither the namespaces nor the folders of a test.
    if ! ./test/browser.sh --find >/dev/null; then
      if [ "$(. /etc/os-release && echo "${ID:-}")" = ubuntu ]; then
        echo "no browser for the tests: Ubuntu has chromium as a snap only; install google-chrome (https://www.google.com/chrome, a deb), or name one in HOSTAGENT_CHROMIUM" >&2
        exit 1
      fi
      package[chromium]=chromium
    fi
    # It brings no font of its own: without one the UI is drawn in boxes.
    package[fc-list]="fontconfig fonts-dejavu-core" ;;
  manual) package[man]=man-db package[groff]=groff-base package[mandoc]=mandoc package[zsh]=zsh package[fish]=fish ;;
  packages) package[lintian]=lintian ;;
esac
missing=()
if [ "${1-}" = manual ] && [ ! -e /usr/share/bash-completion/bash_completion ]; then missing+=(bash-completion); fi
# debootstrap elsewhere than in Debian trusts whatever comes from Debian's mirror without its keys.
if [ "${1-}" = system ] && [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then missing+=(debian-archive-keyring); fi
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null && continue
  read -ra more <<<"${package[$program]}"
  missing+=("${more[@]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! command -v apt-get >/dev/null; then
  echo "missing programs; install these packages: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "missing programs; as root: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing ${missing[*]} with apt-get" >&2
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
