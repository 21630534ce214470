#!/usr/bin/env bash
# Installs what this host needs from its distribution: Debian 12, Debian 13 or Ubuntu 24.04.
#
#   server/host/install-packages.sh [--check] [--for build|run|test]...
#
#   --check   change nothing: list what is missing and exit 1 if anything is
#   --for X   only what X needs; may be repeated; without it, everything
#               build   compile the workspace and make the guest image
#               run     run the server
#               test    run the tests as well
#
# Works as root or through sudo. With nothing missing it prints one line, touches nothing and takes
# a fraction of a second, so callers may run it every time.
#
# It never installs a Docker daemon on the host, and it needs no libvirt daemon: the server uses
# libvirt's embedded driver.
set -euo pipefail
export LC_ALL=C

# package | needed for | least version, or - | what it is for
#
# QEMU: the "file:" migration URIs that templates are made of came with 8.2.
# libvirt: 10.0 is the oldest that was released for QEMU 8.2 and is packaged on a supported system.
readonly PACKAGES='
gcc                        | build    | -       | the linker and C compiler that Rust crates call
libc6-dev                  | build    | -       | C library headers, and the static C library of the guest agent
make                       | build    | -       | the Makefile
pkgconf                    | build    | -       | finds libvirt when the server is compiled
libvirt-dev                | build    | 10.0    | libvirt headers for the server
ca-certificates            | build    | -       | downloads of crates over TLS
mmdebstrap                 | build    | -       | makes the root file system of the guest image
mount                      | build    | -       | mmdebstrap uses it, in a mount namespace of its own
e2fsprogs                  | build    | -       | mke2fs writes the guest disk without mounting it
cpio                       | build    | -       | packs the guest initramfs
zstd                       | build    | -       | keeps the guest root file system in a cache
uidmap                     | build    | -       | user namespaces, in which an ordinary user makes the image
fakeroot                   | build    | -       | the same for the guest disk
debian-archive-keyring     | build    | -       | verifies the packages of the guest image
qemu-utils                 | build run | 1:8.2  | qemu-img: guest disks
qemu-system-x86            | run      | 1:8.2   | runs the virtual machines
libvirt-daemon-driver-qemu | run      | 10.0    | libvirt embedded QEMU driver (no daemon is started)
nftables                   | run      | -       | filters the traffic of the virtual machines
iproute2                   | run      | -       | network namespace and wires of the virtual machines
busybox-static             | test run | -       | a static program, so that the demo and tests can build images from nothing
groovy                     | test     | -       | runs the Jenkins step as Jenkins does (Groovy 2.4)
openssh-client             | test     | -       | ssh and scp, by which a machine can be reached as well
openssl                    | test     | -       | an independent TLS client for the tests
rsync                      | test     | -       | the same
python3-venv               | test     | -       | clients of Docker that are written in Python
sqlite3                    | test     | -       | looks into the server state from outside
shellcheck                 | test     | -       | checks the shell scripts
fish                       | test     | -       | evaluates what the client prints for it
zsh                        | test     | -       | the same
'

# Packages that Debian 12 has too old come from its backports, by source package; everything else,
# dependencies included, stays with the release. ("apt-get -t bookworm-backports" would instead take
# every dependency from there, a newer systemd among them.)
readonly BACKPORTED='src:qemu src:libvirt src:seabios'
readonly BACKPORTS=bookworm-backports

main() {
    parse_arguments "$@"
    read_distribution
    find_missing
    find_missing_user
    find_missing_rust

    if [ ${#missing[@]} -eq 0 ] && [ -z "$user_missing" ] && [ -z "$rust_missing" ]; then
        say "host packages: everything is installed (${purposes[*]})"
        return
    fi
    tell_missing
    if [ -n "$check_only" ]; then
        exit 1
    fi
    become_root
    if [ ${#missing[@]} -gt 0 ]; then
        install_missing
    fi
    find_missing_user # the packages may have made it
    if [ -n "$user_missing" ]; then
        make_user
    fi
    if [ -n "$rust_missing" ]; then
        install_rust
    fi
    say 'host packages: done'
}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    local hint
    for hint in "$@"; do printf 'hint: %s\n' "$hint" >&2; done
    exit 1
}

parse_arguments() {
    check_only='' purposes=()
    while [ $# -gt 0 ]; do
        case $1 in
            --check) check_only=yes ;;
            --for)
                case ${2-} in
                    build | run | test) purposes+=("$2") ;;
                    *) fail "--for takes build, run or test, not \"${2-}\"" ;;
                esac
                shift
                ;;
            -h | --help)
                sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
                exit 0
                ;;
            *) fail "unknown argument \"$1\"" "see $0 --help" ;;
        esac
        shift
    done
    if [ ${#purposes[@]} -eq 0 ]; then purposes=(build run test); fi
}

wanted_for() { # does the list of purposes $1 hold one that was asked for?
    local p
    for p in "${purposes[@]}"; do
        case " $1 " in *" $p "*) return 0 ;; esac
    done
    return 1
}

# Prints "package<TAB>least version<TAB>reason" for each package that was asked for.
wanted_packages() {
    local name for_what least why
    while IFS='|' read -r name for_what least why; do
        read -r name <<<"$name"
        read -r for_what <<<"$for_what"
        read -r least <<<"$least"
        read -r why <<<"$why"
        if [ -n "$name" ] && wanted_for "$for_what"; then
            printf '%s\t%s\t%s\n' "$name" "$least" "$why"
        fi
    done <<<"$PACKAGES"
}

read_distribution() {
    distribution=unknown
    if [ -r /etc/os-release ]; then
        # shellcheck source=/dev/null
        distribution=$(. /etc/os-release && printf '%s %s' "${ID-}" "${VERSION_ID-}")
    fi
    case $distribution in
        'debian 12' | 'debian 13' | 'ubuntu 24.04') ;;
        *)
            {
                printf 'error: this script knows Debian 12, Debian 13 and Ubuntu 24.04; this host says "%s"\n' "$distribution"
                printf 'hint: install by hand what these Debian packages hold (least version in brackets):\n'
                wanted_packages | awk -F '\t' '{ printf "  %-28s %-8s %s\n", $1, ($2 == "-" ? "" : "[" $2 "]"), $3 }'
                printf 'hint: and a Rust toolchain, and a user "libvirt-qemu" for QEMU to run as\n'
            } >&2
            exit 1
            ;;
    esac
}

find_missing() {
    missing=() reasons=()
    local name least why version
    local -A installed=()
    while read -r name version; do
        installed[$name]=$version
    done < <(dpkg-query -W -f '${db:Status-Abbrev}\t${binary:Package}\t${Version}\n' 2>/dev/null |
        awk -F '\t' '$1 ~ /^.i/ { sub(/:.*/, "", $2); print $2, $3 }')
    while IFS=$'\t' read -r name least why; do
        version=${installed[$name]-}
        if [ -z "$version" ]; then
            missing+=("$name") reasons+=("$why")
        elif [ "$least" != - ] && dpkg --compare-versions "$version" lt "$least"; then
            missing+=("$name") reasons+=("$why (has $version, needs $least or newer)")
        fi
    done < <(wanted_packages)
}

# Debian's driver package makes this user; on Ubuntu it comes only with the packages of the daemon.
find_missing_user() {
    user_missing=''
    if wanted_for run && ! getent passwd libvirt-qemu >/dev/null; then
        user_missing=yes
    fi
}

find_missing_rust() {
    rust_missing=''
    if ! wanted_for build; then return; fi
    local manifest
    manifest=$(dirname "$0")/../../Cargo.toml
    rust_wanted=''
    if [ -r "$manifest" ]; then
        rust_wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$manifest")
    fi
    rust_found=$(PATH=$PATH:$HOME/.cargo/bin cargo --version 2>/dev/null | awk '{ print $2 }') || rust_found=''
    if [ -z "$rust_found" ]; then
        rust_missing="cargo is not installed"
    elif [ -n "$rust_wanted" ] && dpkg --compare-versions "$rust_found" lt "$rust_wanted"; then
        rust_missing="cargo is $rust_found, this workspace needs $rust_wanted"
    fi
}

tell_missing() {
    local i
    say 'host packages: missing on this host:'
    for i in "${!missing[@]}"; do
        printf '  %-28s %s\n' "${missing[$i]}" "${reasons[$i]}"
    done
    if [ -n "$user_missing" ]; then
        printf '  %-28s %s\n' 'user libvirt-qemu' 'QEMU runs as this user'
    fi
    if [ -n "$rust_missing" ]; then
        printf '  %-28s %s\n' 'Rust toolchain' "compiles the workspace ($rust_missing)"
    fi
}

become_root() {
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail 'installing packages needs root, and there is no sudo here' "run $0 as root"
        say 'host packages: using sudo to install them'
        sudo -v || fail 'installing packages needs root, and sudo was refused' "run $0 as root"
        as_root=(sudo)
    fi
}

# apt_get TEXT ARGUMENTS...: runs apt-get, telling every 10 s that it still does; its output, and that
# of the packages' scripts, is shown only if it fails.
apt_get() {
    local text=$1 log status=0 tenths=0 child
    shift
    log=$(mktemp)
    say "host packages: $text"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1 </dev/null &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.1
        tenths=$((tenths + 1))
        if [ $((tenths % 100)) -eq 0 ]; then say "host packages: $text, $((tenths / 10)) s"; fi
    done
    wait "$child" || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 40 "$log" | sed 's/^/  | /' >&2
        rm -f "$log"
        fail "$text: apt-get failed with status $status; the end of its output stands above"
    fi
    rm -f "$log"
}

install_missing() {
    apt_get 'reading package lists' update
    local options=(-y --no-install-recommends)
    if [ "$distribution" = 'debian 12' ]; then
        enable_backports
        # The pin holds for this call alone. A later upgrade follows the backports by itself: apt
        # keeps what was installed from there up to date from there.
        local preferences
        preferences=$(mktemp)
        # shellcheck disable=SC2064 # the name is known now
        trap "rm -f '$preferences'" EXIT
        chmod 644 "$preferences"
        {
            if [ -r /etc/apt/preferences ]; then cat /etc/apt/preferences; fi
            printf '\nPackage: %s\nPin: release n=%s\nPin-Priority: 990\n' "$BACKPORTED" "$BACKPORTS"
        } >"$preferences"
        options+=(-o "Dir::Etc::Preferences=$preferences")
    fi
    apt_get "installing ${#missing[@]} packages and what they depend on" install "${options[@]}" "${missing[@]}"
    find_missing
    if [ ${#missing[@]} -gt 0 ]; then
        fail "apt-get succeeded but these are still missing or too old: ${missing[*]}" \
            'see "apt-cache policy" of each; a pin in /etc/apt/preferences.d may hold it back'
    fi
}

# Index targets that APT knows, one per line: origin, codename, component, site, suite as written, source entry.
apt_targets() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format \
        '$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(SITE)|$(RELEASE)|$(SOURCESENTRY)' 'Identifier: Packages'
}

# Copies the host's own entry for the release and changes nothing in it but the suite: mirror, keyring
# and options are then right by construction.
enable_backports() {
    local targets entry file line site suite text name
    targets=$(apt_targets)
    if awk -F '|' -v c="$BACKPORTS" '$2 == c { found = 1 } END { exit !found }' <<<"$targets"; then
        return
    fi
    entry=$(awk -F '|' '$1 == "Debian" && $2 == "bookworm" && $3 == "main" { print; exit }' <<<"$targets")
    [ -n "$entry" ] || fail 'found no Debian 12 entry in the APT sources to take the mirror from' \
        "enable $BACKPORTS yourself and run this again"
    IFS='|' read -r _ _ _ site suite entry <<<"$entry"
    file=${entry%:*} line=${entry##*:}
    case $file in
        *.sources)
            name=$BACKPORTS.sources
            text=$(deb822_with_suite "$file" "$site" "$suite")
            ;;
        *)
            name=$BACKPORTS.list
            text=$(sed -n "${line}p" "$file" | one_line_with_suite "$suite")
            ;;
    esac
    [ -n "$text" ] || fail "could not read the Debian 12 entry in $file" \
        "enable $BACKPORTS yourself and run this again"
    say "host packages: enabling $BACKPORTS in /etc/apt/sources.list.d/$name (QEMU and libvirt of Debian 12 are too old)"
    printf '%s\n%s\n' '# Added by install-packages.sh: newer QEMU and libvirt.' "$text" |
        "${as_root[@]}" tee "/etc/apt/sources.list.d/$name" >/dev/null
    apt_get 'reading package lists of the backports' update
}

# The stanza of file $1 whose URIs hold $2 and whose Suites hold $3, with the suite replaced. Other
# lines, an embedded key among them, are kept as they are.
deb822_with_suite() {
    awk -v site="$2" -v suite="$3" -v new="$BACKPORTS" '
        function holds(text, word,   n, i, w) {
            n = split(text, w, /[ \t]+/)
            for (i = 1; i <= n; i++) { sub(/\/$/, "", w[i]); if (w[i] == word) return 1 }
            return 0
        }
        function finish() {
            if (!done && uris && suites) { printf "%s", kept; done = 1 }
            kept = ""; uris = 0; suites = 0; field = ""
        }
        BEGIN { sub(/\/$/, "", site); sub(/\/$/, "", suite) }
        /^[ \t]*$/ { finish(); next }
        /^#/ { next }
        {
            value = $0
            if (/^[^ \t]/) { field = tolower($0); sub(/:.*/, "", field); sub(/^[^:]*:/, "", value); first = 1 } else first = 0
            if (field == "uris" && holds(value, site)) uris = 1
            if (field == "suites") {
                if (holds(value, suite)) suites = 1
                if (first) kept = kept "Suites: " new "\n"
                next
            }
            if (field == "types") { if (first) kept = kept "Types: deb\n"; next }
            kept = kept $0 "\n"
        }
        END { finish() }' "$1"
}

# A line "deb [options] uri suite components" on stdin, with the suite replaced.
one_line_with_suite() {
    awk -v suite="$1" -v new="$BACKPORTS" '
        { for (i = 3; i <= NF; i++) if ($i == suite) { $i = new; print; exit } }'
}

# As Debian's libvirt-daemon-driver-qemu does it, the allocated number included.
make_user() {
    say 'host packages: adding the user libvirt-qemu, which QEMU runs as'
    local number=64055 uid=() gid=()
    if ! getent passwd "$number" >/dev/null; then uid=(--uid "$number"); fi
    if ! getent group "$number" >/dev/null; then gid=(--gid "$number"); fi
    getent group kvm >/dev/null || "${as_root[@]}" groupadd --system kvm
    getent group libvirt-qemu >/dev/null || "${as_root[@]}" groupadd --system "${gid[@]}" libvirt-qemu
    "${as_root[@]}" useradd --system --key SYS_UID_MAX="$number" "${uid[@]}" --gid kvm --groups libvirt-qemu --no-create-home \
        --home-dir /var/lib/libvirt --shell /usr/sbin/nologin --comment 'Libvirt Qemu' libvirt-qemu
}

# Brings a toolchain where there is none. One that is there but too old belongs to somebody, and other
# work on this host may rely on it: that is not changed from here.
install_rust() {
    local hint="install Rust${rust_wanted:+ $rust_wanted or newer}, for example with rustup (https://rustup.rs), and run this again"
    if [ -n "$rust_found" ]; then
        if command -v rustup >/dev/null; then hint='run "rustup update stable", or choose a newer toolchain with "rustup default"'; fi
        fail "$rust_missing" "$hint"
    fi
    if ! command -v rustup >/dev/null; then
        # The release's own rustc is too old on all three; two of them have rustup.
        [ "$distribution" != 'debian 12' ] || fail "$rust_missing, and Debian 12 has no recent one" "$hint"
        apt_get 'reading package lists' update
        apt_get 'installing rustup' install -y --no-install-recommends rustup
    fi
    say 'host packages: fetching the stable Rust toolchain'
    if ! rustup toolchain install stable --profile minimal --component clippy,rustfmt ||
        ! rustup default stable; then
        fail "$rust_missing, and rustup could not fetch it" "$hint"
    fi
    find_missing_rust
    [ -z "$rust_missing" ] || fail "$rust_missing, also after rustup fetched the stable toolchain" "$hint"
}

main "$@"
