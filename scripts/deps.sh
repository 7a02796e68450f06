#!/bin/sh
# Installs what `make demo` and `make test` need beside Rust, or names it in one line.
#   deps.sh build    a C++ compiler, libclang, ccache
#   deps.sh go       the same, Go 1.26
#   deps.sh test     the same, docker compose, Python with venv, Node.js with npm
#   deps.sh docker   docker compose, and a Docker engine where none answers
#   deps.sh clients  Python with venv, Node.js with npm, a JDK with Maven, protoc
set -eu
want=${1:-build}
go_version=1.26.5
missing=

have() { command -v "$1" >/dev/null 2>&1; }
have_libclang() { ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 || [ -n "${LIBCLANG_PATH:-}" ]; }
go_is_new() {
    have go && go version | awk '{ sub("go", "", $3); split($3, v, "."); exit !(v[1] > 1 || v[2] >= 26) }'
}

have_venv() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
have_engine() { have docker && { docker version >/dev/null 2>&1 || have dockerd; }; }
have_compose() { docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1; }

have cargo || { echo "deps: Rust 1.95 is missing: install it with rustup" >&2; exit 1; }
have clang++ || missing="$missing clang"
have_libclang || missing="$missing libclang-dev"
have ccache || missing="$missing ccache"
have make || missing="$missing make"
if [ "$want" = test ] || [ "$want" = go ]; then
    have git || missing="$missing git"
    have go || missing="$missing golang-go"
fi
if [ "$want" = test ] || [ "$want" = clients ]; then
    have_venv || missing="$missing python3-venv"
    have node || missing="$missing nodejs"
    have npm || missing="$missing npm"
fi
if [ "$want" = clients ]; then
    have javac || missing="$missing default-jdk-headless"
    have mvn || missing="$missing maven"
    have protoc || missing="$missing protobuf-compiler"
    [ -e /usr/include/google/protobuf/descriptor.proto ] || missing="$missing libprotobuf-dev"
fi
if [ "$want" = docker ]; then
    have_engine || missing="$missing docker.io"
fi
if [ "$want" = test ] || [ "$want" = docker ]; then
    have_compose || missing="$missing docker-compose"
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then sudo=; elif have sudo && sudo -n true 2>/dev/null; then sudo=sudo; else
        echo "deps: missing:$missing; run: apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    have apt-get || { echo "deps: missing:$missing; install them with your package manager" >&2; exit 1; }
    # shellcheck disable=SC2086 # a list of packages
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing" >/dev/null
fi

if { [ "$want" = test ] || [ "$want" = go ]; } && ! go_is_new; then
    # Debian's Go is older than etcd's modules ask for. Any Go can fetch a newer one as a module; Go 1.21 and later
    # do so by themselves.
    root=${XDG_CACHE_HOME:-$HOME/.cache}/quorate/go-$go_version
    if [ ! -x "$root/bin/go" ]; then
        arch=$(go env GOARCH)
        module=golang.org/toolchain@v0.0.1-go$go_version.linux-$arch
        dir=$(cd /tmp && GO111MODULE=on GOFLAGS=-mod=mod GONOSUMDB=golang.org/toolchain go mod download -json "$module" |
            awk -F'"' '$2 == "Dir" { print $4 }')
        [ -n "$dir" ] || { echo "deps: Go $go_version could not be fetched; install it and put it on PATH" >&2; exit 1; }
        mkdir -p "$root" && cp -r "$dir/." "$root/" && chmod -R u+w "$root" && chmod +x "$root"/bin/* "$root"/pkg/tool/*/*
    fi
    echo "deps: using Go $go_version in $root" >&2
fi
