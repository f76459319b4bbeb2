# shellcheck shell=bash
# Where the external programs are. Sourced by the other scripts: it defines names and runs nothing that matters.
#
# A program already on PATH wins over one that `scripts/setup` unpacked into the tools folder, as long as it is new
# enough: a machine that has a tool is never made to use a second one.

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools_dir=${LANDFALL_TOOLS:-$repo_root/.landfall/tools}

# Debian keeps dockerd, ip and iptables where a plain user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

# The floors. Their reasons stand in ARCHITECTURE.md; `setup` and `lab` only enforce them.
nats_floor=2.10
compose_floor=2.26
engine_floor=20.10
postgres_floor=15
registry_floor=2.8

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $1"
    [[ -z ${2:-} ]] || say "hint: $2"
    exit 1
}

# First dotted number on standard input: every tool words its version line differently. It reads to the end, because a
# reader that leaves early turns the writer's exit code into a broken pipe.
first_version() { awk '!v && match($0, /[0-9]+(\.[0-9]+)+/) { v = substr($0, RSTART, RLENGTH) } END { print v }'; }

# at_least HAVE WANT
at_least() { [[ -n $1 && $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# find_binary NAME FLOOR VERSION_ARGUMENT: path of the first one that is new enough.
find_binary() {
    local path
    for path in "$(type -P "$1" || true)" "$tools_dir/bin/$1"; do
        [[ -x $path ]] && at_least "$("$path" "$3" 2>&1 | first_version)" "$2" && { printf '%s\n' "$path"; return; }
    done
    return 1
}

find_dockerd() { find_binary dockerd "$engine_floor" --version; }
find_nats_server() { find_binary nats-server "$nats_floor" --version; }
find_docker_registry() { find_binary docker-registry "$registry_floor" --version; }

# The oldest server that is supported: one test run goes against it. It has its own name, so that it is never
# mistaken for the server that everything else uses.
find_nats_server_floor() {
    local path=$tools_dir/bin/nats-server-$nats_floor
    [[ -x $path ]] && printf '%s\n' "$path"
}

# Images are built FROM scratch, so only a static busybox will do, and Debian's ordinary one is not.
find_busybox() {
    local path
    for path in "$(type -P busybox || true)" "$tools_dir/bin/busybox"; do
        [[ -x $path ]] && is_static "$path" && { printf '%s\n' "$path"; return; }
    done
    return 1
}

is_static() { ldd "$1" 2>&1 | grep -q 'not a dynamic executable'; }

# Debian keeps the server's programs out of PATH, one folder per major version. The newest that is there is taken.
find_postgres_bin() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(type -P initdb || echo /none)")"; do
        [[ -x $dir/initdb && -x $dir/pg_ctl && -x $dir/pg_dump ]] || continue
        at_least "$("$dir/postgres" --version | first_version)" "$postgres_floor" && { printf '%s\n' "$dir"; return; }
    done
    return 1
}

find_docker_cli() { find_binary docker "$engine_floor" --version; }

# Asked through the CLI, because that is how the product reaches it: a plugin file that docker does not find is no use.
find_compose() {
    local version
    version=$(docker compose version --short 2>/dev/null | first_version) || return 1
    at_least "$version" "$compose_floor" && printf '%s\n' "$version"
}
