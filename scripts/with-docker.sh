#!/bin/sh
# Runs a command where a Docker engine answers.
#   with-docker.sh COMMAND...       the engine that runs here; else root starts one for this command alone
#   with-docker.sh -t COMMAND...    tries to: where there is none and none can be started it says NOT RUN
# An engine started here keeps its data and socket in a folder of its own, touches no firewall and forwards nothing
# (ports are published by its proxy), and is gone with all it held when the command ends.
set -eu

try=
if [ "${1:-}" = -t ]; then try=1; shift; fi
answers() { docker version --format '{{.Server.Version}}'; }

no_engine=
if ! command -v docker >/dev/null; then
    no_engine="there is no docker command: run scripts/deps.sh docker"
elif why=$(answers 2>&1 >/dev/null); then
    exec "$@"
elif [ -n "${DOCKER_HOST:-}" ]; then
    no_engine="no engine answers at DOCKER_HOST=$DOCKER_HOST: $(echo "$why" | tail -n 1)"
elif [ "$(id -u)" != 0 ]; then
    no_engine="no engine answers, and only root can start one: $(echo "$why" | tail -n 1)"
elif ! command -v dockerd >/dev/null; then
    no_engine="no engine answers, and there is no dockerd to start: run scripts/deps.sh docker"
fi
if [ -n "$no_engine" ]; then
    if [ -n "$try" ]; then
        echo "NOT RUN: $*: $no_engine"
        exit 0
    fi
    echo "with-docker: $no_engine" >&2
    exit 1
fi

# On a disk, where a sync is one; and a short path, for it holds sockets.
folder=$(mktemp -d /var/tmp/quorate-docker.XXXXXX)
engine=
# shellcheck disable=SC2317 # the trap calls it
stop() {
    trap '' INT TERM HUP
    # What a command that was killed has left; networks outlive their engine.
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1 || true
    docker network prune --force >/dev/null 2>&1 || true
    kill "$engine" 2>/dev/null || true
    wait "$engine" || true
    # What is still mounted: names of containers in the host's network; and the engine's data, which it mounts on itself, and
    # leaves so where this system's root or /var/tmp is a bind mount.
    awk -v under="$folder/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        xargs --no-run-if-empty umount --lazy || true
    rm -rf "$folder"
}
trap stop EXIT
# Ctrl-C is for the command, which clears up; then it is our turn.
trap : INT TERM HUP

export DOCKER_HOST="unix://$folder/socket"
setsid dockerd --host="$DOCKER_HOST" --data-root="$folder/data" --exec-root="$folder/run" --pidfile="$folder/pid" \
    --bridge=none --iptables=false --ip-forward=false --ip-masq=false >"$folder/log" 2>&1 &
engine=$!
tries=300 # of 0.1 s: an engine is there in 1 s
until answers >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" = 0 ] || ! kill -0 "$engine" 2>/dev/null; then
        echo "with-docker: dockerd does not start: $(grep -v level=info "$folder/log" | tail -n 1)" >&2
        exit 1
    fi
    sleep 0.1
done

status=0
"$@" || status=$?
exit "$status"
