#!/usr/bin/env bash
# Lists, one per line and sorted, what the servers of some state folders have on the host: processes,
# network namespaces, network devices, packet filter tables, control groups and mounts. Taken before and after, two
# lists tell what was left behind. Reads only; other servers on the same host do not show.
#
#   inventory.sh FOLDER...     folders that the state folders lie in
set -euo pipefail
export LC_ALL=C

processes() {
    local entry name line folder
    for entry in /proc/[0-9]*; do
        # The kernel cuts names after fifteen characters.
        name=$(cat "$entry/comm" 2>/dev/null) || continue
        case $name in qemu-system-* | remote-dockerd | setup-remote-do*) ;; *) continue ;; esac
        line=$(tr '\0' ' ' 2>/dev/null <"$entry/cmdline") || continue
        for folder in "$@"; do
            if [[ $line == *"$folder"* ]]; then
                printf 'process %s: %s\n' "${entry#/proc/}" "${line:0:120}"
                break
            fi
        done
    done
}

# A namespace's name says whose it is, but not where that one's folder is. So those count in which nobody
# lives: a running server has threads in its own, and so have running machines.
namespaces() {
    local inhabited path object
    inhabited=$(find /proc/[0-9]*/task/[0-9]*/ns/net -printf '%l\n' 2>/dev/null | sort -u) || true
    for path in /run/netns/rd-*; do
        object=$(stat -L -c 'net:[%i]' "$path" 2>/dev/null) || continue
        if ! grep -qxF "$object" <<<"$inhabited"; then printf 'network namespace %s\n' "${path##*/}"; fi
    done
}

# In the host's own namespace: uplinks and their tables, where the machines' namespace is gone.
uplinks() {
    local device code
    {
        ip -o link show 2>/dev/null | sed -nE 's/^[0-9]+: (ru[0-9a-z]{13})[@:].*/\1 network device/p'
        nft list tables 2>/dev/null | sed -nE 's/^table inet remote_dockerd_(ru[0-9a-z]{13})$/\1 packet filter table of/p'
    } | while read -r device what; do
        code=${device#ru}
        if [ ! -e "/run/netns/rd-$code" ]; then printf '%s %s\n' "$what" "$device"; fi
    done
}

# Groups of machines that have ended, and those of servers whose machines' namespace is gone.
control_groups() {
    local root group
    awk '$(NF - 2) == "cgroup" || $(NF - 2) == "cgroup2" { print $5 }' /proc/self/mountinfo | while read -r root; do
        for group in "$root"/remote-dockerd/in-*/vm-*; do
            if [ -e "$group/cgroup.procs" ] && ! grep -q . "$group/cgroup.procs" 2>/dev/null; then
                printf 'control group %s\n' "$group"
            fi
        done
        for group in "$root"/remote-dockerd/in-*; do
            if [ -d "$group" ] && [ ! -e "/run/netns/rd-${group##*/in-}" ]; then
                printf 'control group %s\n' "$group"
            fi
        done
    done
}

mounts() {
    local folder
    for folder in "$@"; do
        awk -v folder="$folder/" 'index($5 "/", folder) == 1 { print "mount " $5 }' /proc/self/mountinfo
    done
}

{
    processes "$@"
    namespaces
    uplinks
    control_groups
    mounts "$@"
} | sort
