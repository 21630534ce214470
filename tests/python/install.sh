#!/usr/bin/env bash
# Makes a virtual environment of Python for the tests.
#
#   tests/python/install.sh FOLDER [REQUIREMENTS]
#
# REQUIREMENTS is a file beside this one: Docker's clients (requirements.txt, the default), or what fuzzes
# the API (schemathesis.txt). With the environment there already, made of the same requirements, it does
# nothing. Where packages come from is pip's own configuration.
set -euo pipefail
folder=$1
requirements=$(dirname "$(readlink -f "$0")")/${2:-requirements.txt}
made_of=$(sha256sum <"$requirements")
if [ "$(cat "$folder/made-of" 2>/dev/null)" = "$made_of" ] && "$folder/bin/python" -c '' 2>/dev/null; then
    echo "${2:-python clients}: there already ($folder)"
    exit
fi
python3 -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r "$requirements"
"$folder/bin/pip" check
echo "$made_of" >"$folder/made-of"
