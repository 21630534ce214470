#!/usr/bin/env bash
# What the action does; its inputs come as INPUT_* from action.yml.
# shellcheck disable=SC2153,SC2016 # so they are all set; and backquotes are for people
set -euo pipefail

cli=$INPUT_CLI
run=$INPUT_RUN
if [ -n "$INPUT_URL" ]; then export REMOTE_DOCKER_URL=$INPUT_URL; fi
if [ -n "$INPUT_CA" ]; then export REMOTE_DOCKER_CA=$INPUT_CA; fi
if [ -n "$INPUT_TOKEN" ]; then export REMOTE_DOCKER_TOKEN=$INPUT_TOKEN; fi
# What gives a machine back is kept with its keys, and is not to depend on whether GitHub signs.
is_stop=
if [ -z "$run" ] && [ "$INPUT_COMMAND" = stop ]; then is_stop=yes; fi
if [ -z "$INPUT_TOKEN" ] && [ -n "$INPUT_AUDIENCE" ] && [ -z "$is_stop" ]; then
    if [ -z "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ] || [ -z "${ACTIONS_ID_TOKEN_REQUEST_TOKEN:-}" ]; then
        echo '::error::setup-remote-docker: the input `audience` takes `permissions: id-token: write` in the job'
        exit 2
    fi
    # What proves the job to GitHub goes by standard input: others on the runner can see command lines.
    if ! answer=$(printf 'Authorization: bearer %s\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" |
        curl --silent --show-error --fail --max-time 30 --retry 3 --header @- --get \
            --data-urlencode "audience=$INPUT_AUDIENCE" "$ACTIONS_ID_TOKEN_REQUEST_URL"); then
        echo '::error::setup-remote-docker: GitHub signs no token for this job'
        exit 1
    fi
    REMOTE_DOCKER_TOKEN=$(sed -n 's/.*"value" *: *"\([A-Za-z0-9._-]*\)".*/\1/p' <<<"$answer")
    if [ -z "$REMOTE_DOCKER_TOKEN" ]; then
        echo '::error::setup-remote-docker: what GitHub answers has no token'
        exit 1
    fi
    echo "::add-mask::$REMOTE_DOCKER_TOKEN"
    export REMOTE_DOCKER_TOKEN
fi
# The keys live as long as the job at most: runners empty this folder before and after each.
export XDG_RUNTIME_DIR=$RUNNER_TEMP

flags=(--label "github=$GITHUB_REPOSITORY/$GITHUB_RUN_ID")
add() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
add --engine "$INPUT_ENGINE"
add --size "$INPUT_SIZE"
add --ttl "$INPUT_TTL"
add --idle "$INPUT_IDLE"
add --egress "$INPUT_EGRESS"
add --wait "$INPUT_WAIT"
command=$INPUT_COMMAND
# What is left of the inputs is nothing to the commands that follow.
unset "${!INPUT_@}"

if [ -n "$run" ]; then
    # The token is the client's alone; the server is asked nothing by the commands themselves.
    exec "$cli" run "${flags[@]}" -- env -u REMOTE_DOCKER_TOKEN bash -eo pipefail -c "$run"
fi
case $command in
    start) exec "$cli" start --format github "${flags[@]}" ;;
    stop)
        if [ -z "${REMOTE_DOCKER_LEASE:-}" ]; then
            echo 'There is no machine to give back.'
            exit 0
        fi
        exec "$cli" stop --format github
        ;;
    *)
        # The runner obeys lines that begin with two colons, so what was given must stay within this one.
        command=${command//'%'/%25}
        command=${command//$'\r'/%0D}
        command=${command//$'\n'/%0A}
        echo "::error::setup-remote-docker: the input \`command\` is start or stop, not \`$command\`"
        exit 2
        ;;
esac
