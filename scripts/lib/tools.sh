# shellcheck shell=bash
# The tools that a laboratory is made of: where they are found, and which version is good enough.
# What is unpacked into the tools folder comes first, then PATH, then the places Debian keeps off a user's PATH.

# Servers and runuser live where a plain user's PATH does not reach.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

tools_dir() { printf '%s' "${LANDFALL_TOOLS:-$repository/.landfall/tools}"; }

# Every tool in the order in which a person would install them: what the build needs, then what a laboratory needs.
laboratory_tools=(docker dockerd containerd runc compose nats-server nats-server-2.10 docker-registry postgres psql busybox
  ip iptables htpasswd)
# shellcheck disable=SC2034 # scripts/setup reads it
all_tools=(cargo cc "${laboratory_tools[@]}")
# What `make bench` compares with.
# shellcheck disable=SC2034 # scripts/setup reads it
bench_tools=(ssh sshd)

# tool_path NAME: prints the path of a tool, or fails when there is none.
tool_path() {
  local name=$1
  case $name in
    compose) tool_path docker ;;
    postgres | initdb | pg_ctl | psql | pg_dump) postgres_tool "$name" ;;
    *) PATH="$(tools_dir)/bin:$PATH" type -P "$name" ;;
  esac
}

# Debian keeps one folder per major version of PostgreSQL; the wrappers in /usr/bin choose a cluster of their own.
postgres_tool() {
  local candidate newest=
  for candidate in /usr/lib/postgresql/*/bin/"$1"; do
    [[ -x $candidate ]] && newest=$(printf '%s\n%s\n' "$newest" "$candidate" | sort -V | tail -n 1)
  done
  if [[ -n $newest ]]; then printf '%s\n' "$newest"; else type -P "$1"; fi
}

# tool_needs NAME: the version asked for, in words a person can search for.
tool_needs() {
  case $1 in
    cargo) echo "1.95 or newer" ;;
    docker | dockerd) echo "20.10 or newer" ;;
    compose) echo "2.24 or newer (the v2 plugin)" ;;
    nats-server) echo "2.11 or newer" ;;
    nats-server-2.10) echo "2.10.27 or a later 2.10 (the oldest server Landfall supports)" ;;
    docker-registry) echo "2.8 or newer" ;;
    postgres | psql) echo "15 or newer" ;;
    busybox) echo "statically linked, with httpd" ;;
    *) echo "any version" ;;
  esac
}

# tool_hint NAME: how a person gets it where this script may not.
tool_hint() {
  case $1 in
    cargo) echo "install the Rust toolchain with rustup" ;;
    cc) echo "package build-essential, or your system's C compiler" ;;
    docker | dockerd | containerd | runc) echo "package docker.io (Debian, Ubuntu), or Docker Engine from Docker's own documentation" ;;
    compose) echo "package docker-compose of Debian 13 or newer, docker-compose-v2 (Ubuntu), or docker-compose-plugin from Docker" ;;
    nats-server) echo "package nats-server of Debian sid, or a release of nats-io/nats-server on GitHub" ;;
    nats-server-2.10) echo "release 2.10.27 of nats-io/nats-server on GitHub, put on PATH under the name nats-server-2.10" ;;
    docker-registry) echo "package docker-registry, or a 2.8 release of distribution/distribution put on PATH under that name" ;;
    postgres | psql) echo "package postgresql (the server and the client)" ;;
    busybox) echo "package busybox-static" ;;
    ip) echo "package iproute2" ;;
    iptables) echo "package iptables" ;;
    htpasswd) echo "package apache2-utils" ;;
    ssh | sshd) echo "packages openssh-client and openssh-server" ;;
  esac
}

# tool_ready NAME: present, runs, and new enough.
tool_ready() {
  local name=$1 path
  path=$(tool_path "$name") || return 1
  case $name in
    cargo) version_from 1.95 "$("$path" --version 2>/dev/null)" ;;
    docker) version_from 20.10 "$("$path" --version 2>/dev/null)" ;;
    dockerd) version_from 20.10 "$("$path" --version 2>/dev/null)" ;;
    compose) version_from 2.24 "$("$path" compose version 2>/dev/null)" ;;
    nats-server) version_from 2.11 "$("$path" --version 2>/dev/null)" ;;
    nats-server-2.10) version_from 2.10.27 "$("$path" --version 2>/dev/null)" ;;
    docker-registry) "$path" --version >/dev/null 2>&1 ;;
    postgres | psql) version_from 15 "$("$path" --version 2>/dev/null)" ;;
    busybox) static_busybox "$path" ;;
    *) true ;;
  esac
}

# A dynamically linked busybox cannot run in an image that is built from nothing.
static_busybox() { ! ldd "$1" >/dev/null 2>&1 && grep -qx httpd <<<"$("$1" --list)"; }

# version_from LEAST TEXT: the first number with a dot in TEXT is at least LEAST.
version_from() {
  if [[ ! $2 =~ [0-9]+(\.[0-9]+)+ ]]; then return 1; fi
  printf '%s\n%s\n' "$1" "${BASH_REMATCH[0]}" | sort --check --version-sort 2>/dev/null
}

# missing_tools NAME...
missing_tools() {
  local name
  for name in "$@"; do
    tool_ready "$name" || echo "$name"
  done
}
