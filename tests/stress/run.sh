#!/bin/bash
# run.sh BUILD SECONDS [--fault NAME] [STRESS ARGUMENT...]: the stress over two mounts of the file
# system in memory. Exit code 0: nothing found (with --fault: it was caught, which ends the run);
# 77: cannot run here. Whatever happens, no mount and no sleeping process is left behind: the
# connections are aborted.
set -u
build=$1 seconds=$2
shift 2
fault=() first=()
if [ "${1:-}" = --fault ]; then
  fault=(--fault "$2") first=(--first)
  shift 2
fi
[ "$(id -u)" = 0 ] && [ -c /dev/fuse ] || { echo "needs root and /dev/fuse"; exit 77; }
work=$(mktemp -d)
mkdir "$work/a" "$work/b"
control=/sys/fs/fuse/connections
mountpoint -q $control || mount -t fusectl fusectl $control
host=

# Only what is ours: the numbers of dead connections are given away again.
abort_all() {
  local minor
  for minor in $(awk -v work="$work/" 'index($5, work) == 1 { sub(".*:", "", $3); print $3 }' \
      /proc/self/mountinfo); do
    [ -e $control/"$minor"/abort ] && echo 1 >$control/"$minor"/abort
  done
}
clean_up() {
  if [ -n "$host" ] && kill -0 "$host" 2>/dev/null; then
    kill -TERM "$host"
    for _ in $(seq 20); do kill -0 "$host" 2>/dev/null || break; sleep 0.1; done
    if kill -0 "$host" 2>/dev/null; then
      abort_all
      sleep 0.2
      kill -KILL "$host" 2>/dev/null
    fi
  fi
  [ -n "${watchdog:-}" ] && kill "$watchdog" 2>/dev/null
  for folder in "$work/a" "$work/b"; do
    mountpoint -q "$folder" && umount -l "$folder"
  done
  rm -rf "$work/host.log"
  rmdir "$work/a" "$work/b" "$work" 2>/dev/null
}
trap clean_up EXIT
trap 'exit 1' TERM INT

"$build/plumeria-fake-mounts" "$work/a" "$work/b" --latency-us 200 "${fault[@]}" \
  >"$work/host.log" 2>&1 &
host=$!
for _ in $(seq 100); do grep -q ^ready "$work/host.log" && break; sleep 0.05; done
grep -q ^ready "$work/host.log" || { cat "$work/host.log"; exit 1; }

# What cannot be ended because it waits in the kernel comes free when the connections are aborted.
(
  sleep $((seconds + 40))
  abort_all
) >/dev/null 2>&1 &  # What it leaves behind must not keep the output open.
watchdog=$!
# In a session of its own, by which its processes are recognized.
setsid -w timeout -k 20 $((seconds + 30)) "$build/plumeria-coherence-stress" "$work/a" "$work/b" \
  --seconds "$seconds" "${first[@]}" "$@" &
runner=$!
for _ in $(seq 100); do
  session=$(ps -o sid= --ppid $runner | tr -d ' ' | head -1)
  [ -n "$session" ] && break
  sleep 0.02
done
wait $runner
result=$?
kill $watchdog 2>/dev/null
wait $watchdog 2>/dev/null

[ $result = 0 ] || abort_all
sleeping() {
  ps -o pid=,stat=,comm= --sid "$session" 2>/dev/null | awk '$2 ~ /^D/'
  ps -L -o lwp=,stat=,comm= -p "$host" 2>/dev/null | awk '$2 ~ /^D/'
}
for _ in $(seq 20); do [ -z "$(sleeping)" ] && break; sleep 0.1; done
if [ -n "$(sleeping)" ]; then
  echo "left sleeping in the kernel: $(sleeping)"
  result=4
fi
if [ ${#fault[@]} -gt 0 ]; then
  case $result in
    1 | 3) echo "caught: ${fault[1]}"; exit 0 ;;
    *) echo "NOT CAUGHT: ${fault[1]} ($result)"; cat "$work/host.log"; exit 1 ;;
  esac
fi
kill -USR1 "$host" 2>/dev/null && sleep 0.2
grep ^connection "$work/host.log"
exit $result
