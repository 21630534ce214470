#!/usr/bin/env bash
# Turns the cached root file system and the agent into the files of the image. No mounts and no loop
# devices; runs as root or under fakeroot.
#
#   assemble.sh ROOTFS.tar.zst AGENT WORK      fills WORK/out, uses WORK/root and WORK/disk.raw
#
# SOURCE_DATE_EPOCH is the time of everything written here.
set -euo pipefail
rootfs=$1 agent=$2 work=$3
recipe=$(dirname "$(readlink -f "$0")")
root=$work/root out=$work/out initrd=$work/initrd
readonly DISK_SIZE=20G
# Fixed, so that equal contents give equal bytes. Machines have no use for a disk identity.
readonly DISK_UUID=6d2f6c0e-7b1b-4c55-9d5e-2f1f0c9a7e11

mkdir -p "$root" "$out" "$initrd/modules"
zstd -dcq "$rootfs" | tar -x -C "$root" --numeric-owner
mv "$root/.image" "$work/image"
# Package management stays on the build machine; mmdebstrap itself needs these until it has packed.
rm -rf "$root/etc/apt" "$root/var/lib/apt"

cp -r "$recipe/files/." "$root/"
# Who reaches sshd has proved more than a password would (see etc/ssh/sshd_config).
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
install -m 0755 "$agent" "$root/usr/sbin/guest-agent"
: >"$root/etc/machine-id"
: >"$root/etc/hostname"
: >"$root/etc/resolv.conf"
: >"$root/etc/fstab"
mkdir -p "$root"/{dev,proc,sys,run,tmp,var/log,var/lib/docker,var/lib/containerd}
chmod 1777 "$root/tmp"

version=$(cat "$work/image/kernel-version")
while read -r module _; do
    case $module in '' | '#'*) continue ;; esac
    # A module name means the same with "-" and "_".
    grep -qhE "(^|/)${module//[-_]/[-_]}\.ko" "$root/usr/lib/modules/$version"/modules.{dep,builtin} || {
        echo "the kernel $version has no module $module, which etc/modules-load.d/docker.conf names" >&2
        exit 1
    }
done <"$root/etc/modules-load.d/docker.conf"

# --- initrd.img: the agent as /init, and the modules it loads, by name in their order, to reach the disk.
install -m 0755 "$agent" "$initrd/init"
mkdir -p "$initrd"/{dev,proc,sys,newroot}
cp "$work/image/initrd-modules/"* "$initrd/modules/"
# Not compressed: unpacking costs more than reading a few megabytes from the host's page cache.
find "$initrd" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$initrd" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$out/initrd.img"

cp "$work/image/vmlinuz" "$out/vmlinuz"
cp -r "$work/image/client" "$out/client"

# --- disk.qcow2. No journal and no checksums of metadata: a machine's disk dies with it. Inode tables
# are written now (as holes), so that the guest does not spend its first seconds on them.
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -d "$root" -m 0 -L root -U "$DISK_UUID" \
    -O '^has_journal,^metadata_csum,uninit_bg' \
    -E "hash_seed=$DISK_UUID,lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0" \
    "$work/disk.raw" "$DISK_SIZE"
# What mke2fs copies from the unpacked files although it is new each time. Inodes are given in a row.
last=$(dumpe2fs -h "$work/disk.raw" 2>/dev/null |
    awk -F ': *' '/^Inode count/ { all = $2 } /^Free inodes/ { free = $2 } END { print all - free }')
seq 11 "$last" | sed "s/.*/sif <&> ctime @$SOURCE_DATE_EPOCH\nsif <&> atime @$SOURCE_DATE_EPOCH/" |
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f - "$work/disk.raw" >/dev/null 2>&1
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$out/disk.qcow2"
# Before anybody syncs: these need never reach the build machine's disk.
rm -rf "$root" "$initrd" "$work/disk.raw"
