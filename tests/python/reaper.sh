#!/bin/sh
# Stand-in for Ryuk, which takes away what a test with Testcontainers leaves: its image cannot be pulled.
# Runs on busybox beside a docker CLI, with the daemon's socket mounted. Takes filters from one client,
# one in a line, and removes the containers that they fit as soon as the client is gone.
set -eu
if [ "${1-}" = take ]; then
    while read -r filter; do echo "$filter" >>/filters; done
    exit
fi
echo 'reaper: Started!'
nc -l -p 8080 -e sh "$0" take
tr -d '\r' </filters | while read -r filter; do
    docker ps --all --quiet --filter "$filter" | xargs -r docker rm --force --volumes
done
