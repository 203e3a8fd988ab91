#!/bin/sh
# Makes this machine able to run the integration tests: Debian's packages, the
# controllers that crun needs, and a tree of newer peers from Debian forky.
# Safe to run again; what is there already is left alone.
#
#   integration/setup.sh FORKY KERNEL
#
# FORKY becomes the tree of newer peers (about 850 MB), KERNEL the files of a
# Debian kernel for the virtual machine in which cgroup v2 is tested; systemd and
# dbus are installed for that machine, too, and started only there.
set -eu

forky=${1:?usage: setup.sh FORKY KERNEL}
kernel=${2:?usage: setup.sh FORKY KERNEL}
here=$(realpath "$(dirname "$0")")
# Links and interpreters below are named by absolute paths.
forky=$(realpath -m "$forky")
kernel=$(realpath -m "$kernel")

packages='btrfs-progs busybox-static ca-certificates containerd cpio criu crun dbus debootstrap
docker-registry docker.io e2fsprogs erofs-utils fsverity gzip iproute2 kmod make mount openssl patchelf
procps qemu-system-x86 runc skopeo strace systemd tinyproxy umoci util-linux xz-utils zstd'
# From Debian forky.
peers='containerd crane criu crun docker-buildx docker-cli docker.io libcriu2 runc runsc
soci-snapshotter stargz-snapshotter'

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    # The daemons are started by the tests, privately; not by their packages.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get -q update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

# crun refuses to start where a cgroup v1 controller that it knows is not mounted.
if [ ! -e /sys/fs/cgroup/cgroup.controllers ] && [ ! -d /sys/fs/cgroup/hugetlb ]; then
    mkdir -p /sys/fs/cgroup/hugetlb
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
fi

if [ ! -e "$forky/.debian" ]; then
    rm -rf "$forky"
    mkdir -p "$forky"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' |
        grep -v -e security -e updates | head -n 1)
    debootstrap --variant=minbase forky "$forky" "$mirror" /usr/share/debootstrap/scripts/sid
    printf '#!/bin/sh\nexit 101\n' >"$forky/usr/sbin/policy-rc.d"
    chmod +x "$forky/usr/sbin/policy-rc.d"
    touch "$forky/.debian"
fi

# A tree that lacks some of the peers, because it is older than this list, gets them.
if [ "$(cat "$forky/.complete" 2>/dev/null)" != "$peers" ]; then
    chroot "$forky" apt-get -q -o Acquire::Check-Valid-Until=false update
    # shellcheck disable=SC2086
    chroot "$forky" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
        --no-install-recommends $peers
    # The C programs among them want forky's C library; the Go ones run as they are.
    mkdir -p "$forky/peers"
    for program in /usr/sbin/criu /usr/sbin/runc /usr/bin/crun; do
        cp --remove-destination "$forky$program" "$forky/peers/"
        # An rpath holds for what its libraries want, too; a runpath does not.
        patchelf --force-rpath --set-interpreter "$forky/lib64/ld-linux-x86-64.so.2" \
            --set-rpath "$forky/usr/lib/x86_64-linux-gnu" "$forky/peers/${program##*/}"
    done
    for program in containerd crane ctr ctr-remote containerd-shim-runc-v2 docker docker-proxy \
        runsc soci-snapshotter-grpc; do
        ln -sf "$forky/usr/bin/$program" "$forky/peers/$program"
    done
    ln -sf "$forky/usr/sbin/dockerd" "$forky/peers/dockerd"
    ln -sf "$forky/usr/libexec/docker/cli-plugins/docker-buildx" "$forky/peers/docker-buildx"
    printf '%s\n' "$peers" >"$forky/.complete"
fi

# Peers that Debian has as source code alone.
built=$(cat "$here"/go/* | sha256sum)
if [ "$(cat "$forky/.built" 2>/dev/null)" != "$built" ]; then
    chroot "$forky" apt-get -q -o Acquire::Check-Valid-Until=false update
    "$here/go/build.sh" "$forky"
    printf '%s\n' "$built" >"$forky/.built"
fi

# overlay, erofs and loop are for snapshots; criu wants the rest.
modules='overlay erofs loop inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag
nfnetlink libcrc32c nf_tables tun veth'
if [ "$(cat "$kernel/.complete" 2>/dev/null)" != "$modules" ]; then
    rm -rf "$kernel"
    mkdir -p "$kernel"
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    (cd "$kernel" && apt-get download "$package" && dpkg-deb -x ./*.deb tree)
    for module in $modules; do
        cp "$(find "$kernel/tree" -name "$module.ko")" "$kernel/"
    done
    cp "$kernel"/tree/boot/vmlinuz-* "$kernel/vmlinuz"
    rm -rf "$kernel/tree" "$kernel"/*.deb
    printf '%s\n' "$modules" >"$kernel/.complete"
fi
