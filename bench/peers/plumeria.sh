#!/bin/bash
# Plumeria for the benchmark harness: one server on loopback, two mounts of its store.
#   PLUMERIA=…/plumeria   the program (default: the release build of this tree)
#   PLUMERIA_SERVE, PLUMERIA_MOUNT   further arguments of `serve` and `mount`
. "$BENCH_LIB/lib.sh"
plumeria=${PLUMERIA:-$here/../../build/release/plumeria}
port=${PLUMERIA_PORT:-19411}
address=127.0.0.1:$port
serve() {
  # shellcheck disable=SC2086
  spawn serve "$plumeria" serve "$K/store" --listen "$address" --foreground ${PLUMERIA_SERVE:-}
  until_ok 30 "$plumeria" status "$address"
}
mntone() {
  # shellcheck disable=SC2086
  spawn "mount-$2" "$plumeria" mount "$address" "$1" --foreground ${PLUMERIA_MOUNT:-}
  until_ok 30 mountpoint -q "$1"
}
case $verb in
  start)
    [ -x "$plumeria" ] || bail "$plumeria is not built (./run builds it)"
    backing
    mkdir -p "$A" "$B"
    "$plumeria" mkfs "$K/store" >"$st/log/mkfs.out" 2>&1 || bail mkfs
    serve || bail serve
    mntone "$A" a && mntone "$B" b || bail mount
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
    reap mount-b
    mntone "$A" a && mntone "$B" b
    ;;
  stop)
    um "$B"
    um "$A"
    reap mount-a
    reap mount-b
    reap serve
    unback
    finish
    ;;
  versions) "$plumeria" version ;;
esac
