# Completion of plumeria's commands, options and their values for bash(1).

# The commands and their options; tests/install/completion_test.py compares them with --help.
_plumeria_options() {
  local daemon="--foreground -f --log --pid-file --nice"
  case $1 in
    "") echo "mkfs mount umount serve snapshot status lock locks who fsck logdump bench version --version" ;;
    mkfs) echo "--label --log-size --lease" ;;
    mount) echo "-o --cache-size --timeout $daemon" ;;
    umount) echo "--lazy -l --timeout" ;;
    serve) echo "--listen --lease $daemon" ;;
    snapshot) ;;
    "snapshot create" | "snapshot list") echo "--timeout --json" ;;
    "snapshot delete") echo "--timeout" ;;
    "snapshot mount") echo "-o --cache-size --timeout $daemon" ;;
    status) echo "--json" ;;
    lock) echo "--store --table --timeout --try" ;;
    locks) echo "--table --json" ;;
    who) echo "--store --table" ;;
    fsck) echo "--findings --repair" ;;
    logdump) echo "--slot --block --verbose -v --json" ;;
    bench) echo "--files --size --threads --quick --json" ;;
  esac
  echo "--help -h"
}

# Sets COMPREPLY to what may follow an option, and succeeds if that has a value.
_plumeria_value() {
  local option=$1 current=$2 before=""
  case $option in
    -o)
      [[ $current == *,* ]] && before=${current%,*},
      compopt -o nospace
      mapfile -t COMPREPLY < <(compgen -P "$before" \
        -W "ro rw suid nosuid dev nodev exec noexec nonempty snapshot=" -- "${current##*,}")
      ;;
    --log)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -W "syslog" -- "$current"; compgen -f -- "$current")
      ;;
    --pid-file)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      ;;
    --block)
      compopt -o nospace
      mapfile -t COMPREPLY < <(compgen -W "inode: piece: directory: orphans:" -- "$current")
      ;;
    --listen) mapfile -t COMPREPLY < <(compgen -W "127.0.0.1:7411" -- "$current") ;;
    --label | --log-size | --lease | --cache-size | --timeout | --nice | --store | --table | --findings | --slot | \
      --files | --size | --threads) ;;
    *) return 1 ;;
  esac
}

_plumeria() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" i
  local IFS=$' \t\n'
  COMPREPLY=()
  # --option=value is three words.
  if [[ $current == "=" ]]; then
    current=""
  elif [[ $previous == "=" ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ ${COMP_WORDS[i]} != -* ]]; then
      command=${COMP_WORDS[i]}
      break
    fi
  done
  # The commands about snapshots are two words.
  if [[ $command == snapshot && $COMP_CWORD -gt $((i + 1)) ]]; then
    command+=" ${COMP_WORDS[i + 1]}"
  fi
  if [[ -n $command ]] && _plumeria_value "$previous" "$current"; then return; fi
  if [[ -z $command || $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_plumeria_options "$command")" -- "$current")
  elif [[ $command == snapshot ]]; then
    mapfile -t COMPREPLY < <(compgen -W "create list delete mount" -- "$current")
  elif [[ $command == umount ]]; then
    compopt -o filenames
    IFS=$'\n'
    mapfile -t COMPREPLY < <(compgen -W \
      "$(awk '$3 == "fuse.plumeria" { print $2 }' /proc/self/mounts)" -- "$current")
  elif [[ $command == lock && ${COMP_WORDS[COMP_CWORD - 1]} == lock ]]; then
    mapfile -t COMPREPLY < <(compgen -W "exclusive shared" -- "$current")
  elif [[ $command == lock && " ${COMP_WORDS[*]:0:COMP_CWORD} " == *" -- "* ]]; then
    mapfile -t COMPREPLY < <(compgen -c -- "$current")
  elif [[ $command != @(version|lock|locks|who) ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -d -- "$current")
  fi
}
complete -F _plumeria plumeria
