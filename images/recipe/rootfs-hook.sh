#!/usr/bin/env bash
# Customize hook of mmdebstrap: runs outside the new root file system, which is $1, after all
# packages are installed; the others are the packages of the client. Adds what packages cannot bring as they are, and drops what the guest never
# reads. What belongs to the build and not to the guest goes to $1/.image; assemble.sh takes it out:
#
#   vmlinuz  kernel-version  initrd-modules/  client/  packages (name<TAB>version)  docker-api-version
set -euo pipefail
root=$1
shift
client=("$@")
image=$root/.image
work=$(mktemp -d "$root/.hook.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$image/client/cli-plugins" "$image/initrd-modules"

# Fetches package $1 as the new system's own APT configuration finds it; prints the file's name.
fetch() {
    local folder
    folder=$(mktemp -d "$work/deb.XXXXXX")
    (cd "$folder" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -o APT::Sandbox::User=root download "$1" >&2)
    echo "$folder"/*.deb
}

record() { # the package in file $1 is part of the image although dpkg does not know it
    # shellcheck disable=SC2016 # dpkg expands these
    dpkg-deb --show --showformat='${Package}\t${Version}\n' "$1" >>"$image/packages"
}

# --- Kernel. Unpacked, not installed: installed, it would bring initramfs-tools and udev, and spend
# seconds on an initramfs that is thrown away.
queue=(linux-image-cloud-amd64) kernel=$work/kernel
mkdir "$kernel"
for ((i = 0; i < ${#queue[@]}; i++)); do
    deb=$(fetch "${queue[i]}")
    dpkg-deb -x "$deb" "$kernel"
    record "$deb"
    while read -r name; do
        case " ${queue[*]} " in *" $name "*) ;; *) queue+=("$name") ;; esac
    done < <(dpkg-deb -f "$deb" Depends | sed 's/[,|]/\n/g' |
        sed -n 's/^ *\(linux-\(image\|base\|modules\|binary\)-[^ ]*\).*/\1/p')
done
# Where things lie differs between suites; there is one of each.
vmlinuz=$(find "$kernel" -type f -name 'vmlinuz*')
modules=$(find "$kernel" -type d -path '*/lib/modules/*' -prune)
version=${modules##*/}
echo "$version" >"$image/kernel-version"
cp "$vmlinuz" "$image/vmlinuz"
mkdir -p "$root/usr/lib/modules"
cp -a "$modules" "$root/usr/lib/modules/"
rm -f "$root/usr/lib/modules/$version"/{vmlinuz,System.map,config}
chroot "$root" depmod "$version"

# --- What the initramfs must load to reach the root disk, in order, unpacked so that the agent needs
# no decompressor. Drivers built into the kernel are not listed by modprobe as files.
number=0
while read -r verb file _; do
    [ "$verb" = insmod ] || continue
    name=${file##*/}
    name=$(printf '%02d-%s' "$number" "${name%%.ko*}.ko")
    case $file in
        *.xz) chroot "$root" xz -dc "$file" >"$image/initrd-modules/$name" ;;
        *.ko) cp "$root$file" "$image/initrd-modules/$name" ;;
        *) echo "rootfs-hook: unknown compression of $file" >&2 && exit 1 ;;
    esac
    number=$((number + 1))
done < <(chroot "$root" modprobe -S "$version" --show-depends virtio_blk)

# --- Client tools, for hosts whose distribution has no docker CLI without a daemon.
for package in "${client[@]}"; do
    deb=$(fetch "$package")
    dpkg-deb -x "$deb" "$work/client"
    if [ ! -e "$root/var/lib/dpkg/info/$package.list" ]; then record "$deb"; fi
done
cp "$work/client/usr/bin/docker" "$image/client/docker"
cp "$work"/client/usr/libexec/docker/cli-plugins/* "$image/client/cli-plugins/"
# The CLI and the engine come from one source package, so their API version is the same. The command
# fails for want of a daemon, after it has printed this.
chroot "$root" docker version --format '{{.Client.APIVersion}}' 2>/dev/null >"$image/docker-api-version" || true

# shellcheck disable=SC2016 # dpkg expands these
dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Package}\t${Version}\n' >>"$image/packages"
LC_ALL=C sort -o "$image/packages" "$image/packages"

# --- How the build machine reached its mirrors stays with it: there may be a password in it.
rm -rf "$root"/etc/apt/{apt.conf.d/99mmdebstrap,sources.list,sources.list.d/*}
# --- Identity is given to each machine when it is handed out, never to the image.
rm -f "$root"/etc/ssh/ssh_host_*
# --- Not needed: Perl's library (git uses it for what no build does; the
# scripts of dpkg and debconf use perl-base, which stays).
rm -rf "$root"/var/cache/* "$root"/var/log/* "$root"/usr/share/perl \
    "$root"/usr/share/perl5/Git* "$root"/usr/lib/*/perl "$root"/usr/lib/*/libperl.so.* "$root"/usr/share/git-core/templates/hooks/*
# Nor containerd's shims for runtimes of old, and its command line tool.
rm -f "$root"/usr/bin/containerd-shim "$root"/usr/bin/containerd-shim-runc-v1 "$root"/usr/bin/ctr
