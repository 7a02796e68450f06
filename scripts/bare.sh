#!/bin/sh
# Runs the README's commands where nothing was before: a Debian 12 with nothing in it, made by debootstrap, an empty
# home and empty caches, the Rust toolchain of this machine and a clone of what is committed here.
#   bare.sh [readme|demo|test|verify|ci]...   one system for each; without words: readme ci
# readme: the README's two commands one after the other, as somebody runs them who reads it.
# Needs root and some 25 GB in BARE_DIR (/var/tmp). What a command printed stays in BARE_DIR/quorate-bare-NAME.log.
# Packages come from where this machine's apt has them; the machine's network is used, its files are not.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
space=${BARE_DIR:-/var/tmp}
release=bookworm
toolchain=$(rustc --print sysroot)

# The system becomes the root of a mount namespace of its own (not a chroot: a Docker engine in it could start no
# container). /dev and /sys are the machine's.
enter() {
    root=$1
    mount --bind "$root" "$root"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t proc proc "$root/proc"
    mkdir -p "$root/opt/rust" "$root/.old"
    mount --bind "$toolchain" "$root/opt/rust"
    mount -o remount,ro,bind "$root/opt/rust"
    cd "$root"
    pivot_root . .old
    umount -l /.old
    cd /root/quorate
    certificates=/etc/machine-certificates.crt
    shift
    exec env -i HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        SSL_CERT_FILE=$certificates CURL_CA_BUNDLE=$certificates CARGO_HTTP_CAINFO=$certificates PIP_CERT=$certificates \
        GIT_SSL_CAINFO=$certificates NODE_EXTRA_CA_CERTS=$certificates "$@"
}

# Called in the namespaces that `run` makes.
if [ "${1:-}" = --enter ]; then
    shift
    enter "$@"
fi

[ "$(id -u)" = 0 ] || { echo "bare.sh: only root can make a system of its own" >&2; exit 1; }
command -v debootstrap >/dev/null || {
    echo "bare.sh: debootstrap is missing; run: apt-get install debootstrap" >&2
    exit 1
}
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    awk '$1 == "URIs:" { print $2; exit } $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^http/) { print $i; exit } }')
[ -n "$mirror" ] || { echo "bare.sh: apt names no mirror on this machine" >&2; exit 1; }

work=$(mktemp -d "$space/quorate-bare.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM HUP

# make and git are what somebody has who cloned the project; certificates are the machine's own.
make_base() {
    debootstrap --variant=minbase --include=make,git,ca-certificates "$release" "$work/base" "$mirror" >"$work/log" 2>&1 ||
        { tail -n 5 "$work/log" >&2; echo "bare.sh: debootstrap failed" >&2; exit 1; }
    cp /etc/resolv.conf /etc/hosts "$work/base/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/machine-certificates.crt"
    git clone --quiet "$here" "$work/base/root/quorate"
    # A clone without changes that are not committed: what others get.
    [ -z "$(git -C "$here" status --porcelain)" ] || echo "bare.sh: what is not committed here is not in the clone" >&2
}

run() {
    name=$1 log=$space/quorate-bare-$1.log
    case $name in
    readme) set -- bash -c 'time make demo && time make test' ;;
    demo | test | verify) set -- make "$name" ;;
    ci) set -- env CI=true bash .ci/run ;;
    *) echo "bare.sh: readme, demo, test, verify or ci, not '$name'" >&2; exit 2 ;;
    esac
    rm -rf --one-file-system "$work/root"
    cp -a "$work/base" "$work/root"
    begin=$(date +%s)
    echo "bare.sh: $* in a system with nothing in it; see $log"
    unshare --mount --pid --fork --kill-child "$0" --enter "$work/root" "$@" </dev/null >"$log" 2>&1 || {
        status=$?
        tail -n 40 "$log" >&2
        echo "bare.sh: $* failed ($status) after $((($(date +%s) - begin) / 60)) min" >&2
        exit "$status"
    }
    echo "bare.sh: $* passed in $((($(date +%s) - begin) / 60)) min: $(tail -n 1 "$log")"
}

[ $# -gt 0 ] || set -- readme ci
make_base
for name in "$@"; do
    run "$name"
done
