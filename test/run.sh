#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs every test. As root: on namespaces made by root, and then once more what an ordinary user can run, in a user
# namespace, as user nobody, but for long ones to which it makes no difference who runs them. As an ordinary user: the
# latter only, and all of it. Each run names at its end the tests that it has left out.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin:/sbin
export CGO_ENABLED=0
build=$PWD/.build
mkdir -p "$build"
go build -o "$build/" ./cmd/hostagent ./test/app
export HOSTAGENT_TEST_BIN_DIR=$build
CONSUL_BIN=$(go run ./test/cmd/consul -print)
export CONSUL_BIN

# Most of test/e2e waits: eight hosts at once keep two cores half busy.
go test -timeout 14m -parallel 8 ./...
# go test shows nothing of a package that passes.
[ -n "${HOSTAGENT_NEIGHBOURS_ROOT:-}" ] || echo "NOT RUN: test/neighbours, beside real ufw, firewalld, nft and Docker (as root: make neighbours)" >&2
(cd test/consul && go test ./keys) # is what Consul's keys were taken from still the Consul that is tested with?

[ "$(id -u)" = 0 ] || exit 0
if [ "$(sysctl -n kernel.apparmor_restrict_unprivileged_userns 2>/dev/null || echo 0)" = 1 ] && [ -z "${CI:-}" ]; then
  echo "NOT RUN as an ordinary user: this system forbids user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows them)" >&2
  exit 0
fi
echo "once more as an ordinary user:"
# Somebody who may not read this checkout runs them: the programs go where everybody may look.
open=$(mktemp -d)
trap 'rm -rf "$open"' EXIT
chmod 755 "$open"
cp "$build/hostagent" "$build/app" "$open/"
ln -L "$CONSUL_BIN" "$open/consul" 2>/dev/null || cp "$CONSUL_BIN" "$open/consul"
status=0
for package in cmd/hostagent firewall sockets hostagent/facts hostagent/probe hostagent/consul/configdir test/host test/exposure test/e2e; do
  name=$(basename $package)
  go test -c -o "$open/$name.test" "./$package"
  install -d -o nobody "$open/home-$name"
  if [ -d "$package/testdata" ]; then cp -r "$package/testdata" "$open/home-$name/"; fi
  env -C "$open/home-$name" setpriv --reuid nobody --regid nogroup --clear-groups \
    env HOME="$open/home-$name" TMPDIR="$open/home-$name" CONSUL_BIN="$open/consul" HOSTAGENT_TEST_BIN_DIR="$open" HOSTAGENT_TEST_AGAIN=1 \
    "$open/$name.test" -test.timeout 10m -test.parallel 4 || { status=1; echo "FAIL $package as an ordinary user"; }
done
exit $status
