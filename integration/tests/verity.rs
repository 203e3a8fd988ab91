//! fs-verity, in a virtual machine whose kernel has it: on a filesystem that
//! can seal files, blobs and EROFS layers are sealed, and are read, pushed,
//! run and removed as ever.

use davit_integration::{image, vm};

const PROGRAMS: &[&str] = &[
    "/usr/sbin/mkfs.ext4",
    "/usr/bin/mkfs.erofs",
    "/usr/bin/fsverity",
    "/usr/bin/docker-registry",
];

const SCRIPT: &str = r#"
set -e
cd /root
insmod loop.ko
insmod erofs.ko
truncate -s 128M /disk
mkfs.ext4 -q -b 4096 -O verity /disk
mkdir /data
mount -o loop /disk /data

cat >config.toml <<END
version = 3
root = "/data/root"
state = "/run/davit"
[grpc]
address = "/run/davit/davit.sock"
[plugins."io.containerd.snapshotter.v1.erofs"]
enable_fsverity = true
END
cat >registry.yml <<END
version: 0.1
storage: {inmemory: {}}
http: {addr: "127.0.0.1:5000"}
END
docker-registry serve registry.yml >registry.log 2>&1 &
davitd --config config.toml >log 2>&1 &
until [ -S /run/davit/davit.sock ]; do sleep 0.1; done
until wget -q -O /dev/null http://127.0.0.1:5000/v2/; do sleep 0.1; done
export CONTAINERD_ADDRESS=/run/davit/davit.sock CONTAINERD_NAMESPACE=vm
fail() { echo "FAILED: $1"; tail -n 40 /root/log; exit 1; }

blobs=/data/root/io.containerd.content.v1.content/blobs/sha256
layers=/data/root/io.containerd.snapshotter.v1.erofs/snapshots
app=127.0.0.1:5000/app:1
# How many of the files given the kernel checks.
sealed() {
    count=0
    for file in "$@"; do
        fsverity measure $file >/root/measured 2>&1 || continue
        grep -q '^sha256:' /root/measured && count=$((count + 1))
    done
    echo $count of $#
}
empty() {
    for i in $(seq 300); do [ -z "$(ls $1)" ] && return; sleep 0.1; done
    return 1
}

# A client writes the blobs.
ctr image import image.tar >/dev/null || fail import
echo "written: $(sealed $blobs/*)"
for blob in $blobs/*; do
    (echo more >>$blob) 2>/dev/null && fail "$blob can be written to"
done
ctr image tag IMAGE $app >/dev/null || fail tag
ctr image push --plain-http $app >/dev/null || fail push
ctr image rm --sync IMAGE $app >/dev/null || fail rm
empty $blobs || fail "blobs are left"

# The daemon fetches them, and unpacks while they come.
for snapshotter in overlayfs erofs; do
    davit --address $CONTAINERD_ADDRESS -n vm pull --snapshotter $snapshotter $app >pulled 2>&1 ||
        { cat pulled; fail pull; }
    echo "$snapshotter fetched: $(sealed $blobs/*)"
    [ $snapshotter = overlayfs ] || echo "$snapshotter layers: $(sealed $layers/*/layer.erofs)"
    run="ctr run --rm --snapshotter $snapshotter $app c-$snapshotter"
    echo "$snapshotter output: $($run sh -c 'echo hello >/new && cat /new')"
    [ $snapshotter = erofs ] && break
    ctr image rm --sync $app >/dev/null || fail rm
    empty $blobs || fail "blobs are left"
done

# What has been changed on the disk is an error, not other bytes.
config=$(ctr content ls | awk '$2 != "2B" { print $1 }' | while read digest; do
    case $digest in sha256:*) ;; *) continue ;; esac
    ctr content get $digest 2>/dev/null | head -c 4096 | grep -q '"WorkingDir"' && echo $digest
done | head -n 1)
[ -n "$config" ] || fail "no configuration"
sync
for offset in $(strings -t d -n 16 /disk | awk '/"WorkingDir"/ { print $1 }'); do
    printf '#' | dd of=/disk bs=1 seek=$offset conv=notrunc 2>/dev/null
done
echo 3 >/proc/sys/vm/drop_caches
if ctr content get $config >got 2>&1; then fail "a spoilt blob can be read"; fi
echo "spoilt: $(tail -n 1 got)"

ctr image rm --sync $app >/dev/null || fail rm
empty $blobs || fail "blobs are left"
empty $layers || fail "layers are left"
echo "mounts left: $(grep -c /data/root /proc/self/mounts || true)"
grep -q 'not checked by the kernel' log && fail "a blob was not sealed"
echo done
"#;

#[test]
fn blobs_and_layers_are_sealed_and_used_as_ever() {
    let text = vm::run_with(PROGRAMS, &SCRIPT.replace("IMAGE", image::NAME));
    let says = |line: &str| text.lines().any(|said| said == line);
    for line in ["overlayfs output: hello", "erofs output: hello", "mounts left: 0", "done"] {
        assert!(says(line), "no {line:?} in\n{text}");
    }
    // The manifest, the configuration and the layer; an import keeps its index, too.
    for (what, least) in
        [("written", 3), ("overlayfs fetched", 3), ("erofs fetched", 3), ("erofs layers", 1)]
    {
        assert!(
            (least..5).any(|count| says(&format!("{what}: {count} of {count}"))),
            "{what}\n{text}"
        );
    }
    assert!(text.contains("spoilt: "), "{text}");
}
