# Sourced by ./run, ./test and tools/deb: the Debian packages that the project needs, and how to
# get them.

packages_build="g++ cmake ninja-build pkg-config git ca-certificates libabsl-dev libasio-dev
  libcli11-dev libexpected-dev libfuse3-dev libgmock-dev libgtest-dev libspdlog-dev libssl-dev
  libxxhash-dev nlohmann-json3-dev fuse3"
packages_test="clang-format-14 dpkg-dev e2fsprogs fio gcc libsqlite3-dev make man-db mount
  perl-modules-5.36 procps psmisc python3 spin sqlite3 strace stress-ng systemd tar util-linux
  xz-utils"

packages_package="dpkg-dev"

# Where there is a ccache, it knows a file again in another clone.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo --preserve-env=PLUMERIA_LONG "$@"
  else
    echo "this needs root: $*" >&2
    return 1
  fi
}

# install_packages build [test] [package]: what is missing, and nothing if nothing is.
install_packages() {
  local wanted="" package missing=()
  for list; do
    wanted="$wanted $(eval "echo \$packages_$list")"
  done
  for package in $wanted; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  [ "${#missing[@]}" = 0 ] && return 0
  echo "== install ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}"
}
