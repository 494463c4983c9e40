#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Checks the packages of .build/packages: what lintian says of them, how large the program in them is, and that a second
# build gives the same bytes, in another folder, with another umask and in another time zone.
set -euo pipefail
cd "$(dirname "$0")/.."
./test/tools.sh packages

# Debian's rules, whichever system this runs on.
lintian --profile debian --allow-root --tag-display-limit 0 --fail-on error,warning .build/packages/*.deb

# The linker leaves out what is never called, unless a module looks methods up by names that it makes up when it runs: then
# all of every type stay. google.golang.org/protobuf before 1.36.12 does, and made 22.7 MB of 18.9.
most=$((22 * 1000 * 1000))
for package in .build/packages/*.deb; do
  size=$(dpkg-deb --fsys-tarfile "$package" | tar -xO ./usr/bin/hostagent | wc -c)
  if [ "$size" -gt $most ]; then
    echo "$package: the program has $size bytes, want at most $most: go build -ldflags=-dumpdep tells what a module keeps in it (ReflectMethod)" >&2
    exit 1
  fi
  echo "$package: the program has $size bytes"
done

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
