#!/usr/bin/env bash
# The documents name tests, files and error codes; each has to be there.
# shellcheck disable=SC2016 # the backquotes are those of the documents
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
status=0

complain() {
    printf 'error: %s names %s, which is not there\n' "$1" "$2" >&2
    status=1
}

# Tests: names in the table of invariants and in the documents on security. One that ends in "…" stands for
# all that begin so.
while read -r document name; do
    pattern="fn $name\\b|^ *$name: \""
    if [[ $name == *… ]]; then pattern="fn ${name%…}|^ *${name%…}[a-z_]*: \""; fi
    if ! git grep -qE "$pattern" -- '*.rs'; then
        complain "$document" "the test $name"
    fi
done < <(
    for document in ARCHITECTURE.md docs/security.md docs/cis.md; do
        case $document in ARCHITECTURE.md) part='/^## Invariants/,/^## /p' ;; *) part=p ;; esac
        sed -n "$part" "$document" | grep -oE '`[a-z][a-z0-9_]+…?`' | tr -d '`' | grep _ | sed "s|^|$document |"
    done
)

# Files: the code map and the walks.
while read -r path; do
    case $path in */*) ;; *) continue ;; esac
    if [ ! -e "$path" ] && [ ! -e "server/src/$path" ]; then complain ARCHITECTURE.md "the path $path"; fi
done < <(grep -oE '`[a-z_./-]+(/|\.rs|\.sh|\.toml)`' ARCHITECTURE.md | tr -d '`' | sort -u)

# Error codes: the catalogue explains those that the API has, and no others.
if ! diff \
    <(sed -n 's/^ *Self::[A-Za-z]* => "\([a-z_]*\)",$/\1/p' server/api/src/problem.rs | grep -vx unknown | sort) \
    <(sed -n 's/^| `\([a-z_]*\)` |.*/\1/p' docs/errors.md | sort) >&2; then
    echo 'error: the codes of server/api/src/problem.rs (<) and of docs/errors.md (>) differ' >&2
    status=1
fi

# Links between documents.
for document in *.md docs/*.md images/*.md; do
    if [ ! -e "$document" ]; then continue; fi
    while read -r target; do
        case $target in http*) continue ;; esac
        if [ ! -e "$(dirname "$document")/${target%%#*}" ]; then complain "$document" "$target"; fi
    done < <(grep -oE '\]\([^)]+\)' "$document" | sed 's/^](//;s/)$//')
done
exit "$status"
