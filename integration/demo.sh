#!/bin/sh
# Shows a real container: a private davitd in a directory of its own, an image
# made here from busybox, a container by shim and runc, and everything stopped
# again. Needs root and no network, once the packages are there.
#
#   integration/demo.sh BIN-DIR
set -eu

bin=$(cd "${1:?usage: demo.sh BIN-DIR}" && pwd)

missing=
for package in busybox-static runc; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    apt-get -q update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

work=$(mktemp -d)
daemon=
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true
    fi
    [ "$status" -eq 0 ] || { echo "--- log of davitd" >&2; tail -n 30 "$work/davitd.log" >&2; }
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An image: an OCI layout with one uncompressed layer, all of it written here.
layout=$work/layout
mkdir -p "$layout/blobs/sha256" "$work/rootfs/bin" "$work/rootfs/proc" "$work/rootfs/tmp"
cp /bin/busybox "$work/rootfs/bin/"
for applet in cat echo hostname id ls ps sh sleep true uname; do
    ln -s busybox "$work/rootfs/bin/$applet"
done

# Moves a file to its place among the blobs; sets $digest and $size.
blob() {
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    size=$(stat -c %s "$1")
    mv "$1" "$layout/blobs/sha256/$digest"
}

tar -C "$work/rootfs" --numeric-owner --owner=0 --group=0 -cf "$work/layer" .
blob "$work/layer"
layer=$digest layer_size=$size
cat >"$work/config" <<END
{"architecture": "amd64", "os": "linux",
 "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
END
blob "$work/config"
cat >"$work/manifest" <<END
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:$digest", "size": $size},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
             "digest": "sha256:$layer", "size": $layer_size}]}
END
blob "$work/manifest"
cat >"$layout/index.json" <<END
{"schemaVersion": 2, "manifests": [
 {"mediaType": "application/vnd.oci.image.manifest.v1+json",
  "digest": "sha256:$digest", "size": $size,
  "annotations": {"io.containerd.image.name": "demo.local/busybox:latest"}}]}
END
echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
tar -C "$layout" -cf "$work/image.tar" oci-layout index.json blobs

export DAVIT_ADDRESS="$work/davit.sock"
PATH=$bin:$PATH davitd --root "$work/root" --state "$work/state" --address "$DAVIT_ADDRESS" \
    >"$work/davitd.log" 2>&1 &
daemon=$!
tries=0
until [ -S "$DAVIT_ADDRESS" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] && kill -0 "$daemon" || { echo "davitd did not start" >&2; exit 1; }
    sleep 0.05
done

echo "== davitd is up; importing the image"
"$bin/davit" import "$work/image.tar"
echo "== running a container: davitd -> containerd-shim-davit-v2 -> runc"
"$bin/davit" run --rm --name demo demo.local/busybox:latest \
    sh -c 'echo "hello from $(hostname), pid $$, on Linux $(uname -r)"; id; ps'
echo "== and its exit code comes back:"
code=0
"$bin/davit" run --rm demo.local/busybox:latest sh -c 'exit 42' || code=$?
echo "$code"
[ "$code" -eq 42 ]
[ -z "$("$bin/davit" ps --all --quiet)" ] || { echo "a container is left over" >&2; exit 1; }
echo "== done; stopping davitd"
