#!/usr/bin/env bash
# Gets Debian's docker-registry for the tests, without installing it: where it is installed, it starts a
# registry on the host, which nobody has asked for.
#
#   tests/registry/install.sh FOLDER
#
# Leaves FOLDER/bin/docker-registry. Does nothing if that is there. Where packages come from is APT's own
# configuration.
set -euo pipefail
folder=$1
if [ -x "$folder/bin/docker-registry" ]; then
    echo "docker-registry: there already ($folder)"
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download docker-registry)
dpkg-deb -x "$work"/docker-registry_*.deb "$work/files"
mkdir -p "$folder/bin"
# Complete or not there.
install -m 0755 "$work/files/usr/bin/docker-registry" "$folder/bin/docker-registry.new"
mv "$folder/bin/docker-registry.new" "$folder/bin/docker-registry"
echo "docker-registry: $("$folder/bin/docker-registry" --version | head -n 1)"
