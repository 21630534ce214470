#!/usr/bin/env bash
# Runs a command as root, through sudo where needed, and says why.
#
#   as-root.sh WHY COMMAND [ARGUMENT]...
set -euo pipefail
why=$1
shift
if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
if ! command -v sudo >/dev/null; then
    printf 'error: this takes root, and there is no sudo here: %s\nhint: run make as root\n' "$why" >&2
    exit 1
fi
printf 'sudo: %s\n' "$why" >&2
# sudo clears the environment; these say where things are and hold no secrets.
kept=("PATH=$PATH")
for name in TMPDIR CARGO_TARGET_DIR REMOTE_DOCKER_CACHE E2E_BIN_DIR E2E_IMAGES_DIR E2E_PYTHON_DIR; do
    if [ -n "${!name-}" ]; then kept+=("$name=${!name}"); fi
done
exec sudo -- env "${kept[@]}" "$@"
