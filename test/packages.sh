#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Checks the packages of .build/packages: what lintian says of them, and that a second build gives the same bytes, in
# another folder, with another umask and in another time zone.
set -euo pipefail
cd "$(dirname "$0")/.."
./test/tools.sh packages

lintian --allow-root --tag-display-limit 0 --fail-on error,warning .build/packages/*.deb

builds=$(mktemp -d)
trap 'rm -rf "$builds"' EXIT
export HOSTAGENT_PACKAGE_VERSION=v0.1.0
architecture=$(go env GOARCH)
packaging/build.sh "$builds/first" "$architecture"
(umask 077 && mkdir "$builds/elsewhere" && TMPDIR=$builds/elsewhere TZ=Asia/Tokyo packaging/build.sh "$builds/second" "$architecture")
for package in "$builds/first"/*; do
  cmp "$package" "$builds/second/${package##*/}"
done
echo "the same bytes twice: $(cd "$builds/first" && echo *)"
