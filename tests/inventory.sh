#!/usr/bin/env bash
# Lists, one per line and sorted, what this project may leave on a host: processes, network
# namespaces, network devices, packet filter tables, mounts, and files of tests and of the demo.
# Taken before and after, two lists tell what was left behind. Reads only.
set -euo pipefail
export LC_ALL=C
cache=${REMOTE_DOCKER_CACHE:-/var/cache/setup-remote-docker}

processes() {
    local folder name line
    for folder in /proc/[0-9]*; do
        name=$(cat "$folder/comm" 2>/dev/null) || continue
        # The kernel cuts names after fifteen characters.
        case $name in
            qemu-system-*) line=$(tr '\0' '\n' 2>/dev/null <"$folder/cmdline" | sed -n 's/^guest=\([^,]*\).*/\1/p' | head -n 1) || continue ;;
            remote-dockerd | setup-remote-do*) line=$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") || continue ;;
            *) continue ;;
        esac
        # Somebody else's machine, or gone between the two reads.
        if [[ $name == qemu-* && $line != vm-* ]]; then continue; fi
        if [ -d "$folder" ]; then printf 'process %s: %s %s\n' "${folder#/proc/}" "$name" "$line"; fi
    done
}

network() {
    find /run/netns -maxdepth 1 -name 'rd-*' -printf 'network namespace %f\n' 2>/dev/null || true
    # Uplinks are "ru", taps "rd" and thirteen characters.
    { ip -o link show 2>/dev/null || true; } |
        sed -nE 's/^[0-9]+: (r[du][0-9a-z]{13})[@:].*/network device \1/p'
    { nft list tables 2>/dev/null || true; } | sed -n 's/^table \(.*remote_dockerd.*\)/packet filter table \1/p'
}

mounts() {
    awk '$5 ~ /^\/run\/netns\/rd-|\/rd-e2e-|\/rd-demo-/ { print "mount " $5 }' /proc/self/mountinfo
}

files() {
    find /var/tmp /tmp -maxdepth 1 \( -name 'rd-e2e-*' -o -name 'rd-demo-*' \) -printf 'file %p\n' 2>/dev/null || true
    # Keys of leases that were not given back.
    find /tmp/setup-remote-docker-* "${XDG_RUNTIME_DIR:-/nonexistent}/setup-remote-docker" \
        -mindepth 1 -maxdepth 1 -printf 'file %p\n' 2>/dev/null || true
    # Disks, logs and channels of VMs, which the demo's state folder must not keep.
    find "$cache/demo/state/vms" -mindepth 1 -maxdepth 1 -printf 'file %p\n' 2>/dev/null || true
}

{
    processes
    network
    mounts
    files
} | sort
