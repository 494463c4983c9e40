#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Builds the packages: packaging/build.sh [FOLDER [ARCHITECTURE]...], by default into .build/packages for amd64 and arm64.
#
# The version is the one that Go stamps into the program, which it takes from git, so that package and program always say
# the same. HOSTAGENT_PACKAGE_VERSION=v9.9.9 builds what lies here as if a commit with that tag held it, for tests of
# upgrades. The same commit gives the same bytes, wherever it is built: the time in the packages is the commit's.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOOS=linux GOAMD64=v1 GOARM64=v8.0

out=$(realpath -m "${1:-.build/packages}")
architectures=("${@:2}")
[ ${#architectures[@]} -gt 0 ] || architectures=(amd64 arm64)
manual=(hostagent.1 hostagent.hcl.5 hostagent.bash _hostagent hostagent.fish)
stage=.build/package # what nfpm.yaml names

# stamped prints the version that Go has stamped into a program.
stamped() { go version -m "$1" | awk '$1 == "mod" { print $3 }'; }

# build_as builds everything from a copy of this folder that is one commit, tagged with a version.
build_as() {
  local version=$1
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [ -e "$file" ]; then printf '%s\0' "$file"; fi
  done | tar -c --null --files-from=- | tar -x -C "$copy"
  mkdir -p "$copy/.build"
  cp -r .build/manual "$copy/.build/"
  (
    cd "$copy"
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=build GIT_AUTHOR_EMAIL=build@example.invalid
    export GIT_COMMITTER_NAME=build GIT_COMMITTER_EMAIL=build@example.invalid
    export GIT_AUTHOR_DATE="$SOURCE_DATE_EPOCH +0000" GIT_COMMITTER_DATE="$SOURCE_DATE_EPOCH +0000"
    unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
    git init -q
    git add --all
    git commit -q -m "$version"
    git tag "$version"
    HOSTAGENT_PACKAGE_VERSION='' HOSTAGENT_EXPECTED_VERSION=$version packaging/build.sh "$out" "${architectures[@]}"
  )
}

# licences prints the licences of the modules that the program is made of. Those of one architecture are those of all.
licences() {
  echo "hostagent is linked with the following, under the licences below."
  GOARCH=amd64 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/hostagent | sort -u |
    while read -r module release folder; do
      printf '\n\n==== %s %s\n' "$module" "$release"
      find "$folder" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort | xargs -r -d '\n' sed ''
    done
  printf '\n\n==== the Go programming language %s\n' "$(go env GOVERSION)"
  cat "$(go env GOROOT)/LICENSE"
}

# compress writes a file as .gz that holds neither its name nor a time.
compress() { gzip -9 -n -c "$1" >"$2"; }

for file in "${manual[@]}"; do
  [ -s ".build/manual/$file" ] || { echo "packaging/build.sh: .build/manual/$file is missing: make manual writes it" >&2; exit 1; }
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) || { echo "packaging/build.sh: no commit to take the time from: set SOURCE_DATE_EPOCH" >&2; exit 1; }
fi
export SOURCE_DATE_EPOCH
mkdir -p "$out"
if [ -n "${HOSTAGENT_PACKAGE_VERSION:-}" ]; then
  build_as "$HOSTAGENT_PACKAGE_VERSION"
  exit
fi

rm -rf "$stage"
mkdir -p "$stage"
for architecture in "${architectures[@]}"; do
  GOARCH=$architecture go build -trimpath -buildvcs=auto -ldflags "-s -w" -o "$stage/hostagent-$architecture" ./cmd/hostagent
done
version=$(stamped "$stage/hostagent-${architectures[0]}")
if [ "$version" != "${HOSTAGENT_EXPECTED_VERSION:-$version}" ]; then
  echo "packaging/build.sh: Go takes $HOSTAGENT_EXPECTED_VERSION for no version of this module: name one like v1.2.3 or v1.2.3-rc.1" >&2
  exit 1
fi
VERSION=$(packaging/version.sh "$version")
export VERSION

compress .build/manual/hostagent.1 "$stage/hostagent.1.gz"
compress .build/manual/hostagent.hcl.5 "$stage/hostagent.hcl.5.gz"
compress CHANGELOG.md "$stage/changelog.gz"
licences >"$stage/third-party-licences"
compress "$stage/third-party-licences" "$stage/third-party-licences.gz"
cat >"$stage/changelog.Debian" <<END
hostagent ($VERSION-1) unstable; urgency=medium

  * Built from $version.
  * What has changed is told by changelog.gz.

 -- The hostagent authors <hostagent@example.invalid>  $(date -R -d "@$SOURCE_DATE_EPOCH")
END
compress "$stage/changelog.Debian" "$stage/changelog.Debian.gz"

for architecture in "${architectures[@]}"; do
  for packager in deb rpm; do
    ARCHITECTURE=$architecture go tool -modfile=.ci/nfpm/go.mod nfpm package --config packaging/nfpm.yaml --packager "$packager" --target "$out" >/dev/null
  done
done
rm -rf "$stage"
echo "built hostagent $version as $VERSION-1 for ${architectures[*]}, into $out"
