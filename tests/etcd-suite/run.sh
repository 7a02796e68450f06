#!/usr/bin/env bash
# Runs etcd's own end-to-end suite (go.etcd.io/etcd/tests/v3/common, unmodified) against a server binary.
#
#   run.sh [options] ETCD [LAST_RELEASE]
#
# ETCD          the binary that the suite starts as `etcd`
# LAST_RELEASE  the binary it starts as `etcd-last-release` (default: ETCD). Because there is one, each
#               case also runs on three members over plain TCP, some of them this binary. With stock etcd
#               here, the clusters are mixed.
#
#   --run RE --skip RE   other tests than the default ones (the golden list then counts for what ran)
#   --etcdctl BINARY     what the suite drives its servers with (default: etcdctl 3.7.3)
#   --timeout D          give up after this time (default 40m)
#   --log FILE           where the whole output goes (default: target/etcd-suite.log)
#   --stock              stock etcd in both places: checks the suite and the golden list themselves
#   --update-golden      the same, and store what passed as stock.golden
#
# The programs are built first by build.sh (into $QUORATE_GO_DIR). The count and the verdict come from
# ./count: every leaf test that stock.golden lists must pass, and none may fail. The last line is
# `N passed, N failed`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
default_run='^(TestKV.*|TestTxn.*|TestCompact|TestEndpoint.*|TestVerifyHashKV.*|TestAlarm.*|TestDefragOnline|TestMember(Add|Remove|List)|TestStatus|TestWaitLeader|TestWatch|TestLease.*)$'
default_skip='/Peer|//Peer|///Peer|////Peer|/Client|//Client|///Client|////Client'
run=$default_run
skip=$default_skip
timeout=40m
log=$here/../../target/etcd-suite.log
etcdctl=
stock=
update=
go_dir=${QUORATE_GO_DIR:-${HOME:?}/.cache/quorate/go}

usage() {
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
    exit "$1"
}
while (($#)); do
    case $1 in
    --run) run=$2; shift 2 ;;
    --skip) skip=$2; shift 2 ;;
    --etcdctl) etcdctl=$2; shift 2 ;;
    --timeout) timeout=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --stock) stock=1; shift ;;
    --update-golden) stock=1; update=1; shift ;;
    -h | --help) usage 0 ;;
    -*) usage 2 >&2 ;;
    *) break ;;
    esac
done

"$here/build.sh" --only "etcd etcdctl etcdutl common.test etcd-suite-count" "$go_dir"
go_dir=$(cd "$go_dir" && pwd)
if [[ $stock ]]; then
    set -- "$go_dir/etcd"
fi
[[ $# -ge 1 && $# -le 2 ]] || usage 2 >&2
etcd=$1
last=${2:-$1}
etcdctl=${etcdctl:-$go_dir/etcdctl}
for binary in "$etcd" "$last" "$etcdctl"; do
    [[ -x $binary && -f $binary ]] || { echo "run.sh: no program at $binary" >&2; exit 2; }
done
mkdir -p "$(dirname "$log")"
log=$(cd "$(dirname "$log")" && pwd)/$(basename "$log")

# The suite's ports are fixed (20000 and up): one run at a time on a machine.
exec 8>"${TMPDIR:-/tmp}/quorate-etcd-suite.lock"
flock 8

work=$(mktemp -d "${TMPDIR:-/tmp}/quorate-etcd-suite.XXXXXX")
# The suite's servers sit in sessions of their own; they are known by the path they were started by.
stop_left_over() {
    local p argv0 found=0
    for p in /proc/[0-9]*; do
        IFS= read -r -d '' argv0 2>/dev/null <"$p/cmdline" || continue
        if [[ $argv0 == "$work"/* ]]; then
            kill -KILL "${p#/proc/}" 2>/dev/null && found=$((found + 1))
        fi
    done
    if ((found)); then
        echo "stopped $found processes that tests had left running"
    fi
}
child=
cleanup() {
    trap - EXIT INT TERM
    if [[ $child ]]; then kill -KILL "$child" 2>/dev/null || true; fi
    stop_left_over
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Copies, so that a build that replaces a binary meanwhile does no harm.
mkdir -p "$work/bin" "$work/common" "$work/tmp"
cp "$etcd" "$work/bin/etcd"
cp "$last" "$work/bin/etcd-last-release"
cp "$etcdctl" "$work/bin/etcdctl"
cp "$go_dir/etcdutl" "$go_dir/common.test" "$work/bin/"
cp -R "$go_dir/fixtures" "$work/fixtures"

echo "etcd-suite: $("$work/bin/etcd" --version 2>&1 | head -n 1), last release: $("$work/bin/etcd-last-release" --version 2>&1 | head -n 1)"
echo "etcd-suite: the whole output goes to $log"
status=0
cd "$work/common"
env -u E2E_TEST_MINIMAL TMPDIR="$work/tmp" "$work/bin/common.test" \
    -test.v=test2json -test.timeout "$timeout" -test.run "$run" -test.skip "$skip" \
    -bin-dir "$work/bin" >"$log" 2>&1 </dev/null 8>&- &
child=$!
wait "$child" || status=$?
child=
stop_left_over

args=(-functions "$here/no-subtests.txt")
if [[ $update ]]; then
    args+=(-write "$here/stock.golden")
else
    args+=(-golden "$here/stock.golden")
    if [[ $run != "$default_run" || $skip != "$default_skip" ]]; then args+=(-subset); fi
fi
counted=0
"$go_dir/etcd-suite-count" "${args[@]}" "$log" || counted=$?
if ((status && !counted)); then
    echo "run.sh: the suite ended with exit code $status" >&2
    exit 1
fi
exit "$counted"
