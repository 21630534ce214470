#!/usr/bin/env bash
# The main job, live: starts a server, leases a machine through the CLI, builds and runs on its Docker
# daemon, gives the machine back, stops the server, and proves that nothing is left.
#
#   demo.sh BIN_DIR IMAGES_DIR
#
# `make demo` calls it, as root, when programs and image are there. Needs no registry and no network:
# the image that it builds holds one static program. The server's state folder is kept in the cache, so
# that the next demo finds the template; everything else goes.
set -euo pipefail
export LC_ALL=C
bin=$1 images=$2
here=$(dirname "$(readlink -f "$0")")
cache=${REMOTE_DOCKER_CACHE:-/var/cache/setup-remote-docker}
state=$cache/demo/state
image=$images/trixie
# Far beyond what it takes without hardware virtualization: about half a minute for the first template.
readonly READY_LIMIT=300
readonly STOP_LIMIT=60

main() {
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/rd-demo-XXXXXX")
    server='' lease='' times=() current='' failed=yes
    trap 'clean_up' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    prepare
    "$here/../inventory.sh" "$work" "$state" >"$work/before"
    title 'A server with its own state folder'
    timed 'server ready' start_server
    title 'A lease: a fresh virtual machine with Docker in it'
    timed 'lease' take_lease
    timed 'docker version' show_version
    title 'A build on it, from a Dockerfile and nothing else'
    timed 'docker build' build
    title 'A privileged container on it: it mounts, and sees another kernel than this host'
    timed 'docker run --privileged' run_privileged
    title 'The machine goes back, and the server stops'
    timed 'machine destroyed' give_back
    timed 'server stopped' stop_server
    look_for_leaks
    summary
    failed=''
}

title() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }
say() { printf '  %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf 'hint: %s\n' "$2" >&2; fi
    exit 1
}

milliseconds() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# timed NAME COMMAND...: runs it and remembers how long it took.
timed() {
    local started duration
    current=$1
    started=$(milliseconds)
    shift
    "$@"
    duration=$(($(milliseconds) - started))
    times+=("$(printf '%-26s %7d.%02d s' "$current" $((duration / 1000)) $((duration % 1000 / 10)))")
    current=''
}

prepare() {
    [ "$(id -u)" -eq 0 ] || fail 'the server takes root: it makes a network namespace and runs machines' 'run "make demo", which asks sudo'
    local file
    for file in "$bin/remote-dockerd" "$bin/setup-remote-docker" "$image/manifest.json"; do
        [ -e "$file" ] || fail "$file is missing" 'run "make demo", which builds it'
    done
    # The Docker client that came with the guest image, unless this host has its own with buildx.
    docker=$image/client/docker
    local plugins=$image/client/cli-plugins
    if ! "$docker" --version >/dev/null 2>&1; then
        docker=$(command -v docker) || fail "the Docker client $image/client/docker does not run here and there is no other"
        "$docker" buildx version >/dev/null 2>&1 ||
            fail "the Docker client $docker has no buildx, which BuildKit needs" 'install docker-buildx'
        plugins=''
    fi
    mkdir -p "$work/docker" "$work/runtime" "$work/context" "$state"
    chmod 0711 "$cache/demo" "$state"
    chmod 0700 "$work/runtime"
    printf '{%s}\n' "${plugins:+\"cliPluginsExtraDirs\": [\"$plugins\"]}" >"$work/docker/config.json"
    # Nothing of the caller's own Docker set-up or leases may play a part.
    unset DOCKER_HOST DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_CONTEXT "${!REMOTE_DOCKER_@}"
    export DOCKER_CONFIG=$work/docker XDG_RUNTIME_DIR=$work/runtime XDG_CONFIG_HOME=$work/config
    find_busybox
    cp "$busybox" "$work/context/busybox"
    cp "$here/Dockerfile" "$work/context/"
    api_port=$(free_ports 17420 1)
    relay_port=$(free_ports 17500 8)
}

find_busybox() {
    busybox=$(type -P busybox) || fail 'busybox is missing' 'run server/host/install-packages.sh'
    case $(ldd "$busybox" 2>&1) in
        *'statically linked'* | *'not a dynamic executable'*) ;;
        *) fail "$busybox is not static: a container from nothing has no C library" 'install busybox-static' ;;
    esac
}

# The first of $2 ports in a row, from $1 on, on which nobody listens.
free_ports() {
    local first=$1 taken
    taken=" $(ss -Htln | awk '{ sub(/.*:/, "", $4); print $4 }' | tr '\n' ' ') "
    local tries port
    for ((tries = 0; tries < 100; tries++)); do
        for ((port = first; port < first + $2; port++)); do
            if [[ $taken == *" $port "* ]]; then break; fi
        done
        if [ "$port" -eq $((first + $2)) ]; then
            printf '%s' "$first"
            return
        fi
        first=$((port + 1))
    done
    fail "found no $2 free TCP ports in a row above $1"
}

start_server() {
    # Its own network namespace is closed: what runs here needs nothing from outside, and the host's
    # own network settings stay as they are.
    cat >"$work/config.toml" <<TOML
state_dir = "$state"
images_dir = "$images"

[http]
listen = "127.0.0.1:$api_port"

[relay]
ports = "$relay_port-$((relay_port + 7))"

[network]
uplink = "none"

[sizes.small]
vcpus = 2
memory_mib = 1024
TOML
    say "$bin/remote-dockerd serve --config $work/config.toml"
    "$bin/remote-dockerd" serve --config "$work/config.toml" </dev/null >"$work/server.log" 2>&1 &
    server=$!
    wait_ready
    export REMOTE_DOCKER_URL=http://127.0.0.1:$api_port
    REMOTE_DOCKER_TOKEN=$(cat "$state/token")
    export REMOTE_DOCKER_TOKEN
}

# GET of a path, with the means of bash: there may be no curl here.
http_get() {
    local answer
    answer=$( (
        exec 3<>"/dev/tcp/127.0.0.1/$api_port"
        printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
        timeout 5 cat <&3
    ) 2>/dev/null) || true
    http_status=$(sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p' <<<"$answer")
    http_body=$(sed '1,/^\r*$/d' <<<"$answer")
}

wait_ready() {
    local started=$SECONDS told=-10 detail
    while [ $((SECONDS - started)) -lt $READY_LIMIT ]; do
        kill -0 "$server" 2>/dev/null || fail 'the server ended before it was ready'
        http_get /readyz
        if [ "$http_status" = 200 ]; then
            say "ready after $((SECONDS - started)) s"
            return
        fi
        if [ $((SECONDS - told)) -ge 5 ]; then
            detail=$(grep -o '"reason":"[^"]*"' <<<"$http_body" | sed 's/^"reason":"//;s/"$//' | paste -sd ';' | sed 's/;/; /g') || true
            say "waiting for the server ($((SECONDS - started)) s): ${detail:-it does not listen yet}"
            told=$SECONDS
        fi
        sleep 0.2
    done
    fail "the server was not ready within $READY_LIMIT s; it said: $http_body"
}

take_lease() {
    say "eval \"\$(setup-remote-docker start)\""
    local variables
    variables=$("$bin/setup-remote-docker" start --ttl 30m --label from=demo)
    eval "$variables"
    lease=$REMOTE_DOCKER_LEASE
    say "lease $lease: DOCKER_HOST=$DOCKER_HOST"
}

show_version() {
    say 'docker version'
    "$docker" version --format '{{.Client.Version}} here, {{.Server.Version}} on kernel {{.Server.KernelVersion}} there' | sed 's/^/  /'
}

build() {
    say 'docker build -t demo .'
    DOCKER_BUILDKIT=1 "$docker" build --progress plain -t demo "$work/context" >"$work/build.log" 2>&1 || {
        cat "$work/build.log" >&2
        fail 'docker build failed'
    }
    grep -E '^#[0-9]+ (\[|DONE|exporting)' "$work/build.log" | tail -n 12 | sed 's/^/  /'
}

run_privileged() {
    say 'docker run --rm --privileged demo'
    local said kernel
    said=$("$docker" run --rm --privileged demo)
    # shellcheck disable=SC2001 # each line
    sed 's/^/  /' <<<"$said"
    grep -q '^mounted a file system' <<<"$said" || fail 'the container could not mount'
    kernel=$(sed -n 's/^kernel //p' <<<"$said")
    if [ -z "$kernel" ] || [ "$kernel" = "$(uname -r)" ]; then
        fail "the container runs on the kernel \"$kernel\", as this host does"
    fi
}

give_back() {
    say 'setup-remote-docker stop --wait'
    local variables
    variables=$("$bin/setup-remote-docker" stop --wait)
    lease=''
    eval "$variables"
}

stop_server() {
    kill "$server"
    local tenths
    for ((tenths = 0; tenths < STOP_LIMIT * 10; tenths++)); do
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.1
    done
    if kill -0 "$server" 2>/dev/null; then fail "the server did not stop within $STOP_LIMIT s"; fi
    local status=0 pid=$server
    server=''
    wait "$pid" || status=$?
    [ "$status" -eq 0 ] || fail "the server ended with status $status"
}

look_for_leaks() {
    {
        "$here/../inventory.sh" "$work" "$state" | comm -13 "$work/before" -
        find "$state/vms" "$work/runtime/setup-remote-docker" -mindepth 1 -printf 'file %p\n' 2>/dev/null || true
    } >"$work/left"
    if [ -s "$work/left" ]; then
        cat "$work/left" >&2
        fail 'what stands above was left behind'
    fi
    say 'nothing is left: no machine, network namespace, mount or key file'
}

summary() {
    title 'How long it took'
    local line
    for line in "${times[@]}"; do say "$line"; done
    say "(the template is kept in $state, so the next demo is faster)"
}

evidence() {
    {
        printf '\n%s\n' "the demo failed${current:+ at the step \"$current\"}; what is known:"
        if [ -s "$work/server.log" ]; then
            printf -- '--- end of the server log\n'
            tail -n 40 "$work/server.log"
        fi
        local console
        for console in "$state"/vms/*/console.log; do
            if [ -s "$console" ]; then
                printf -- '--- end of %s\n' "$console"
                tail -n 20 "$console"
            fi
        done
    } >&2
}

# After a failure a machine may be left that no server looks after any more.
sweep() {
    local entry name namespace
    for entry in /proc/[0-9]*; do
        name=$(cat "$entry/comm" 2>/dev/null) || continue
        if [[ $name == qemu-system-* ]] && tr '\0' ' ' 2>/dev/null <"$entry/cmdline" | grep -qF "$state"; then
            kill -9 "${entry#/proc/}" 2>/dev/null || true
        fi
    done
    while read -r namespace; do
        if ! grep -qxF "network namespace $namespace" "$work/before"; then ip netns delete "$namespace" || true; fi
    done < <("$here/../inventory.sh" "$state" | sed -n 's/^network namespace //p')
}

# Whatever happened: the machine goes back, the server ends, the files of this demo go.
clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$failed" ]; then evidence; fi
    set +e
    if [ -n "$lease" ] && [ -n "$server" ]; then
        timeout 60 "$bin/setup-remote-docker" stop --wait "$lease" >/dev/null || true
    fi
    if [ -n "$server" ] && kill "$server" 2>/dev/null; then
        local tenths
        for ((tenths = 0; tenths < STOP_LIMIT * 10; tenths++)); do
            if ! kill -0 "$server" 2>/dev/null; then break; fi
            sleep 0.1
        done
        if kill -9 "$server" 2>/dev/null; then
            echo 'error: the server did not stop and was killed' >&2
        fi
    fi
    if [ -n "$failed" ]; then sweep; fi
    rm -rf "$work"
    exit "$status"
}

main
