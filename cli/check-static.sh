#!/usr/bin/env bash
# Says what is wrong with a program that is to run on any x86-64 Linux: it must need no loader and no
# library, and be no larger than was agreed.
#
#   cli/check-static.sh PROGRAM
set -euo pipefail
program=$1
most=15000000

fail() {
    printf 'error: %s %s\n' "$program" "$*" >&2
    exit 1
}

segments=$(LC_ALL=C readelf --program-headers --wide "$program")
if grep -q INTERP <<<"$segments"; then fail 'asks for a loader, so it runs where that is and nowhere else'; fi
needed=$(LC_ALL=C readelf --dynamic --wide "$program" | grep NEEDED || true)
if [ -n "$needed" ]; then fail "needs libraries: $needed"; fi
grep -q 'X86-64' <<<"$(LC_ALL=C readelf --file-header "$program")" || fail 'is not for x86-64'
size=$(stat --format %s "$program")
if [ "$size" -gt "$most" ]; then fail "has $size bytes, more than $most"; fi
printf '%s: static, %s bytes\n' "$program" "$size"
