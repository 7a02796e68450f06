#!/bin/sh
# Runs programs written with other languages' etcd clients against a server, one fresh member each.
#   run.sh [python|gateway|core|go|javascript|java|rust]...      QUORATE_BIN names the server (or any etcd)
# A program gets the server's address as its argument, and in RESTART a command that kills the server with
# SIGKILL and starts it again. It ends with 0 if all that it expects of etcd is so, and says what is not.
# The old and odd clients (core, go) run on stock etcd too, which ETCD_BIN names: what passes there must pass here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${QUORATE_BIN:?names the server}"
built=${CLIENTS_DIR:-${CARGO_TARGET_DIR:-$here/../../target}/clients}
mkdir -p "$built"
built=$(cd "$built" && pwd)
server=$QUORATE_BIN
passed=0 failed=0

# What a program needs is installed once for each state of its lock file.
prepare() {
    lock=$1 stamp=$built/$2.stamp
    shift 2
    want=$(sha256sum "$lock" | cut -d' ' -f1)
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
    "$@"
    echo "$want" >"$stamp"
}

python_venv() {
    rm -rf "$built/venv"
    python3 -m venv "$built/venv"
    "$built/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/python/requirements.txt"
}

npm_modules() {
    mkdir -p "$built/javascript"
    cp "$here"/javascript/package*.json "$built/javascript/"
    (cd "$built/javascript" && npm ci --silent --ignore-scripts --no-audit --no-fund)
}

# The versions of clientv3 do not go into one module; 3.4 has another import path than those after it.
go_program() {
    dir=$built/go/$1
    mkdir -p "$dir"
    cp "$here/go/$1/go.mod" "$here/go/$1/go.sum" "$dir/"
    path=go.etcd.io/etcd/client/v3
    case $1 in v3.4.*) path=go.etcd.io/etcd/clientv3 ;; esac
    sed "s,go.etcd.io/etcd/client/v3,$path," "$here/go/main.go" >"$dir/main.go"
    (cd "$dir" && CGO_ENABLED=0 GOFLAGS= go build -mod=readonly -trimpath -buildvcs=false -o program .)
}

# both NAME COMMAND...: the program on stock etcd, then on the server.
both() {
    who=$1
    shift
    if [ -n "${ETCD_BIN:-}" ]; then
        server=$ETCD_BIN
        against "$who, on stock etcd" "$@"
        server=$QUORATE_BIN
    elif [ -n "${QUORATE_REQUIRE_JUDGES:-}" ]; then
        echo "run.sh: ETCD_BIN names no stock etcd: run 'make judges' first" >&2
        exit 1
    fi
    against "$who" "$@"
}

# against NAME COMMAND...: one fresh server, one program.
against() {
    name=$1
    shift
    dir=$(mktemp -d)
    trap '"$here/server.sh" stop "$dir" || :; rm -rf "$dir"' EXIT
    trap 'exit 130' INT TERM
    address=$("$here/server.sh" start "$dir" "$server")
    echo "== $name"
    if RESTART="$here/server.sh restart $dir" timeout 120 "$@" "$address"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "run.sh: $name failed; the end of the server's log:" >&2
        tail -n 30 "$dir/log" | cut -c1-300 >&2
    fi
    "$here/server.sh" stop "$dir"
    trap - EXIT INT TERM
    rm -rf "$dir"
}

for language in "$@"; do
    case $language in
    python)
        prepare "$here/python/requirements.txt" python python_venv
        against "Python, etcd3" "$built/venv/bin/python" "$here/python/main.py"
        ;;
    gateway)
        prepare "$here/python/requirements.txt" python python_venv
        against "Python, etcd3gw (JSON gateway)" "$built/venv/bin/python" "$here/python/gateway.py"
        ;;
    core)
        prepare "$here/python/requirements.txt" python python_venv
        both "Python, gRPC's C core" "$built/venv/bin/python" "$here/python/core.py"
        ;;
    go)
        for version in "$here"/go/v*/; do
            version=$(basename "$version")
            go_program "$version"
            both "Go, clientv3 $version" "$built/go/$version/program"
        done
        ;;
    javascript)
        prepare "$here/javascript/package-lock.json" javascript npm_modules
        cp "$here/javascript/main.mjs" "$built/javascript/"
        against "JavaScript, etcd3" node "$built/javascript/main.mjs"
        ;;
    java)
        mvn --quiet --batch-mode -f "$here/java/pom.xml" -DbuildDirectory="$built/java" process-classes
        against "Java, jetcd" java -cp "$built/java/classes:$built/java/lib/*" Main
        ;;
    rust)
        CARGO_TARGET_DIR="$built/rust" cargo build --quiet --locked --manifest-path "$here/rust/Cargo.toml"
        against "Rust, etcd-client" "$built/rust/debug/etcd-client-program"
        ;;
    *)
        echo "run.sh: no program for '$language'" >&2
        exit 2
        ;;
    esac
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
