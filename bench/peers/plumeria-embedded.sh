#!/bin/bash
# Plumeria for the benchmark harness: everything in the process of one mount, and B a bind mount of
# it.
#   PLUMERIA=…/plumeria   the program (default: the release build of this tree)
. "$BENCH_LIB/lib.sh"
plumeria=${PLUMERIA:-$here/../../build/release/plumeria}
mntone() {
  # shellcheck disable=SC2086
  spawn mount-a "$plumeria" mount "$K/store" "$A" --foreground ${PLUMERIA_MOUNT:-}
  until_ok 30 mountpoint -q "$A" && mount --bind "$A" "$B"
}
case $verb in
  start)
    [ -x "$plumeria" ] || bail "$plumeria is not built (./run builds it)"
    backing
    mkdir -p "$A" "$B"
    "$plumeria" mkfs "$K/store" >"$st/log/mkfs.out" 2>&1 || bail mkfs
    mntone || bail mount
    echo "$A"
    echo "$B"
    ;;
  mounts)
    echo "$A"
    echo "$B"
    ;;
  remount)
    um "$B"
    um "$A"
    reap mount-a
    mntone
    ;;
  stop)
    um "$B"
    um "$A"
    reap mount-a
    unback
    finish
    ;;
  versions) "$plumeria" version ;;
esac
