#!/usr/bin/env bash
# What `make test` does, in this order: cheap checks first, then the demo, then every test, and at the
# end a look at what was left on the host. The last line tells how many tests passed and failed.
#
#   tests/run.sh        everything
#   tests/run.sh lint   only what needs neither root nor an image
#
# Called by make, which sets CARGO_TARGET_DIR and REMOTE_DOCKER_CACHE. Needs no terminal.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
: "${CARGO_TARGET_DIR:?is set by make}" "${REMOTE_DOCKER_CACHE:?is set by make}"

main() {
    # QEMU's user has to pass through, and paths of sockets below must stay short.
    work=$(mktemp -d /var/tmp/rd-XXXXXX)
    chmod 0711 "$work"
    mkdir -m 1777 "$work/t"
    trap 'finish $?' EXIT
    passed=0 failed=0

    stage 'host packages' server/host/install-packages.sh
    stage 'format' cargo fmt --all --check
    stage 'shell scripts' lint_shell
    stage 'documents' tests/check-docs.sh
    stage 'clippy' cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    stage 'dependencies' lint_dependencies
    if [ "${1-}" = lint ]; then return; fi
    stage 'documentation' env RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
        cargo doc --locked --quiet --workspace --no-deps --all-features --document-private-items

    stage 'programs and tests' build
    stage 'probe for attacks' make probe
    stage 'guest image' make image
    stage 'guest image of another engine' make image-sid
    stage 'python clients' tests/python/install.sh "$CARGO_TARGET_DIR/tools/python"
    stage 'schemathesis' tests/python/install.sh "$CARGO_TARGET_DIR/tools/schemathesis" schemathesis.txt
    stage 'registry' tests/registry/install.sh "$CARGO_TARGET_DIR/tools/registry"
    inventory >"$work/before"
    stage 'demo' demo
    stage 'cargo-nextest' have_nextest
    run_tests
    look_for_leaks
}

say() { printf '\n== %s\n' "$*"; }

# stage NAME COMMAND...: a step that must succeed for the rest to make sense.
stage() {
    local name=$1 start=$SECONDS
    shift
    say "$name"
    if ! "$@"; then
        printf 'error: %s failed; what it said stands above\n' "$name" >&2
        failed=$((failed + 1))
        exit 1
    fi
    printf -- '-- %s: %d s\n' "$name" "$((SECONDS - start))"
}

# The summary is the last thing that is said, however the run ended.
finish() {
    local status=$1
    # What a failed test left may be root's.
    rm -rf "$work" 2>/dev/null || tests/as-root.sh "removing $work" rm -rf "$work" || true
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
    if [ "$status" -eq 0 ] && [ "$failed" -ne 0 ]; then status=1; fi
    printf '\n== %d s in all\n%d passed, %d failed\n' "$SECONDS" "$passed" "$failed"
    exit "$status"
}

lint_shell() {
    local scripts
    readarray -d '' -t scripts < <(git ls-files -z | xargs -0 grep -lZ -m 1 '^#!.*\(bash\|/sh\)')
    shellcheck -- "${scripts[@]}"
}

lint_dependencies() {
    if ! command -v cargo-deny >/dev/null; then
        echo 'not checked: cargo-deny is not installed (cargo install --locked cargo-deny)'
        return
    fi
    cargo deny --all-features --offline check bans licenses sources
    # The advisories are a repository of their own, which not every network reaches.
    if cargo deny --all-features fetch db >"$work/advisories" 2>&1; then
        cargo deny --all-features check advisories
    else
        echo "not checked: security advisories; their data cannot be had here: $(tail -n 1 "$work/advisories")"
    fi
}

build() {
    cargo build --locked --workspace --all-features --bins
    cargo test --locked --workspace --all-features --no-run
}

# With the programs that were just built, so that nothing is built twice.
demo() {
    TMPDIR=$work/t tests/as-root.sh 'the demo runs virtual machines in a network namespace of their own' \
        tests/demo/demo.sh "$CARGO_TARGET_DIR/debug" "$REMOTE_DOCKER_CACHE/images"
}

have_nextest() {
    local own=$CARGO_TARGET_DIR/tools
    PATH=$PATH:$own/bin
    if ! command -v cargo-nextest >/dev/null; then
        echo 'building cargo-nextest once (some minutes)'
        cargo install --locked --quiet --root "$own" cargo-nextest
    fi
    cargo nextest --version | head -n 1
}

# Built as this user and run as root: with the lists that cargo writes here, root needs no cargo and
# leaves no files of its own among those that were built. The report lies in the workspace wherever
# cargo builds.
run_tests() {
    local start=$SECONDS status=0 junit=target/nextest/ci/junit.xml
    say 'tests'
    cargo nextest list --locked --workspace --all-features --list-type binaries-only \
        --message-format json >"$work/binaries.json"
    cargo metadata --locked --format-version 1 --all-features >"$work/metadata.json"
    rm -f "$junit"
    TMPDIR=$work/t E2E_BIN_DIR=$CARGO_TARGET_DIR/debug E2E_IMAGES_DIR=$REMOTE_DOCKER_CACHE/images \
        E2E_PYTHON_DIR=$CARGO_TARGET_DIR/tools/python E2E_SCHEMATHESIS_DIR=$CARGO_TARGET_DIR/tools/schemathesis \
        E2E_REGISTRY_DIR=$CARGO_TARGET_DIR/tools/registry \
        tests/as-root.sh 'the tests run virtual machines and make network namespaces' \
        "$(command -v cargo-nextest)" nextest run --profile ci \
        --binaries-metadata "$work/binaries.json" --cargo-metadata "$work/metadata.json" \
        --no-input-handler </dev/null || status=$?
    printf -- '-- tests: %d s\n' "$((SECONDS - start))"
    if [ ! -s "$junit" ]; then
        echo 'error: the tests did not run to their end' >&2
        failed=$((failed + 1))
        return
    fi
    count "$junit"
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=$((failed + 1)); fi
}

# The totals that stand in the root element of the report.
count() {
    local root tests failures errors
    root=$(grep -m 1 -o '<testsuites [^>]*>' "$1")
    tests=$(sed -n 's/.* tests="\([0-9]*\)".*/\1/p' <<<"$root")
    failures=$(sed -n 's/.* failures="\([0-9]*\)".*/\1/p' <<<"$root")
    errors=$(sed -n 's/.* errors="\([0-9]*\)".*/\1/p' <<<"$root")
    failed=$((failed + failures + errors))
    passed=$((passed + tests - failures - errors))
}

# What belongs to this run: everything that it starts has its files below one of the two folders.
inventory() {
    local demo=$REMOTE_DOCKER_CACHE/demo/state
    {
        tests/as-root.sh 'looking for what is left' tests/inventory.sh "$work/t" "$demo"
        find "$work/t" "$demo/vms" -mindepth 1 -maxdepth 1 -printf 'file %p\n' 2>/dev/null || true
    } | LC_ALL=C sort
}

look_for_leaks() {
    say 'nothing is left on the host'
    # A process that was killed a moment ago may still be on its way out.
    local tries
    for ((tries = 0; tries < 10; tries++)); do
        inventory >"$work/after"
        LC_ALL=C comm -13 "$work/before" "$work/after" >"$work/left"
        if [ ! -s "$work/left" ]; then break; fi
        sleep 1
    done
    if [ -s "$work/left" ]; then
        echo 'error: this was not there before the demo and the tests:' >&2
        sed 's/^/  /' "$work/left" >&2
        failed=$((failed + 1))
        return
    fi
    echo 'no process, namespace, device, filter, control group, mount or file more than before'
    passed=$((passed + 1))
}

main "$@"
