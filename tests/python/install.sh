#!/usr/bin/env bash
# Makes a virtual environment of Python with Docker's clients, for the tests.
#
#   tests/python/install.sh FOLDER
#
# With the environment there already, made of the same requirements, it does nothing. Where packages
# come from is pip's own configuration.
set -euo pipefail
folder=$1
requirements=$(dirname "$(readlink -f "$0")")/requirements.txt
made_of=$(sha256sum <"$requirements")
if [ "$(cat "$folder/made-of" 2>/dev/null)" = "$made_of" ] && "$folder/bin/python" -c 'import docker' 2>/dev/null; then
    echo "python clients: there already ($folder)"
    exit
fi
python3 -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r "$requirements"
"$folder/bin/pip" check
echo "$made_of" >"$folder/made-of"
