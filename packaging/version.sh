#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Prints Go's version of a module as both dpkg and rpm sort it: packaging/version.sh v1.2.3-rc.1
#
# A tilde comes before everything, so that 1.2.3~rc.1 is older than 1.2.3. What Go calls v1.2.3-0.DATE-COMMIT, a commit on
# the way to v1.2.3, gets two, because rpm would take its digits for newer than the letters of 1.2.3~rc.1. A program that Go
# could not stamp is older than every other one.
set -euo pipefail

case ${1:?a version} in
  "(devel)") echo "0.0.0~0" ;;
  *) sed -E 's/^v//; s/^([0-9.]+)-0\.([0-9]{14}-)/\1~~\2/; s/-/~/; s/-/./g' <<<"$1" ;;
esac
