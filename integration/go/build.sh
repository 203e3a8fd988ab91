#!/bin/sh
# Builds the peers that Debian has as source code alone, with forky's compiler
# and libraries: the stargz snapshotter's daemon, buildkitd and buildctl.
#
#   integration/go/build.sh FORKY
#
# The programs go to FORKY/peers. What they are built from, `packages`, is
# unpacked beside and not installed: the dependencies of these packages are
# five times as many.
set -eu

forky=$(realpath "${1:?usage: build.sh FORKY}")
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d "$forky/tmp/go.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt downloads as a user of its own.
chmod 755 "$work"
mkdir -m 777 "$work/debs"

compiler=$(chroot "$forky" apt-cache depends --important golang-go |
    sed -n 's/.*Depends: \(golang-[0-9.]*-go\)$/\1/p')
version=${compiler#golang-}
version=${version%-go}
(
    inside=${work#"$forky"}/debs
    # shellcheck disable=SC2046
    chroot "$forky" sh -c 'cd "$0" && exec apt-get download -q -o Acquire::Retries=5 "$@"' \
        "$inside" "golang-$version-go" "golang-$version-src" $(cat "$here/packages")
) >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

mkdir "$work/tree"
find "$work/debs" -name '*.deb' -print0 | xargs -0 -n 1 -P 2 sh -c '
    dpkg-deb --fsys-tarfile "$1" |
        tar -x -C "$0" --exclude="*_test.go" --exclude="*/testdata/*" --exclude="./usr/share/doc"
    ' "$work/tree"

# Imports of later major versions are only found from below a go.mod.
gocode=$work/tree/usr/share/gocode
buildkit=$gocode/src/github.com/moby/buildkit
[ -e "$buildkit/go.mod" ] || echo 'module github.com/moby/buildkit' >"$buildkit/go.mod"
# Not in Debian: libraries for caches in clouds and for buildkitd's worker
# without containerd; the default seccomp profile is in containerd, too.
rm "$buildkit/cmd/buildkitd/main_oci_worker.go"
sed -i -e '/remotecache\/\(azblob\|gha\|s3\)"$/d' \
    -e '/\<\(azblob\|gha\|s3remotecache\)\.Resolve/d' "$buildkit/cmd/buildkitd/main.go"
sed -i -e 's|github.com/moby/profiles/seccomp|github.com/containerd/containerd/v2/contrib/seccomp|' \
    -e 's/seccomp\.GetDefaultProfile(s)/seccomp.DefaultProfile(s), nil/' \
    "$buildkit/executor/oci/spec_linux.go"
mkdir "$gocode/src/stargz"
cp "$here/stargz.go" "$gocode/src/stargz/"

export GOROOT="$work/tree/usr/lib/go-$version" GOPATH="$gocode" GOCACHE="$work/cache"
export GO111MODULE=off GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0
for package in stargz github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl; do
    "$GOROOT/bin/go" build -gcflags='all=-N -l' -ldflags='-s -w' -o "$work/${package##*/}" "$package"
done
mkdir -p "$forky/peers"
mv "$work/stargz" "$work/buildkitd" "$work/buildctl" "$forky/peers/"
