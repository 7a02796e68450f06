#!/bin/sh
# The server that a client program talks to: one member in a folder of its own, on free ports.
#   server.sh start DIR BINARY    starts it, waits until it serves; prints its client address
#   server.sh restart DIR         kill -9, the same member again on its data; waits until it serves
#   server.sh stop DIR            kill -9, and it stays away
set -eu
act=$1 dir=$2

# Ports that nobody has, below those that the kernel gives out itself. The same ones serve after a restart.
free_ports() {
    shuf -i 10000-18999 | while read -r port; do
        grep -q ":$(printf '%04X' "$port") 0*:0000 0A" /proc/net/tcp /proc/net/tcp6 || echo "127.0.0.1:$port"
    done | head -n 2
}

launch() {
    client=$(cat "$dir/client") peer=$(cat "$dir/peer")
    : >"$dir/log"
    env -i PATH="$PATH" HOME="${HOME:-/}" "$(cat "$dir/binary")" --name solo --data-dir "$dir/data" \
        --listen-client-urls "http://$client" --advertise-client-urls "http://$client" \
        --listen-peer-urls "http://$peer" --initial-advertise-peer-urls "http://$peer" \
        --initial-cluster "solo=http://$peer" </dev/null >"$dir/log" 2>&1 &
    echo $! >"$dir/pid"
    tries=0
    until grep -q "ready to serve client requests" "$dir/log"; do
        kill -0 "$(cat "$dir/pid")" 2>/dev/null && [ $((tries = tries + 1)) -lt 600 ] || {
            echo "server.sh: the server did not start:" >&2
            tail -n 20 "$dir/log" >&2
            exit 1
        }
        sleep 0.05
    done
}

end() {
    kill -9 "$(cat "$dir/pid")" 2>/dev/null || :
    while kill -0 "$(cat "$dir/pid")" 2>/dev/null; do sleep 0.02; done
}

case $act in
start)
    mkdir -p "$dir"
    echo "$3" >"$dir/binary"
    ports=$(free_ports)
    echo "$ports" | head -n 1 >"$dir/client"
    echo "$ports" | tail -n 1 >"$dir/peer"
    launch
    cat "$dir/client"
    ;;
restart) end; launch ;;
stop) end ;;
*) echo "server.sh: start, restart or stop, not '$act'" >&2; exit 2 ;;
esac
