#!/bin/sh
# Runs targets of the Makefile one after the other, says which, and how long it has been at it.
#   steps.sh TARGET...      MAKE names make; ends with the first that fails
set -eu
begin=$(date +%s)
elapsed() {
    seconds=$(($(date +%s) - begin))
    echo "$((seconds / 60)) min $((seconds % 60)) s"
}
count=$# number=0
for target in "$@"; do
    number=$((number + 1))
    echo "== $target ($number of $count, $(elapsed) so far)"
    "${MAKE:-make}" --no-print-directory "$target" || {
        status=$?
        echo "== $target failed after $(elapsed)" >&2
        exit "$status"
    }
done
echo "== all $count steps done in $(elapsed)"
