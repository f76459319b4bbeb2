# shellcheck shell=bash
# What the demos share. scripts/demo and scripts/fleet-demo declare repository, folder, binaries and hosts, and source this.
# shellcheck disable=SC2154
executor_start_timeout_s=15
executor_stop_timeout_s=20

step() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }

# A demo neither reads nor writes the configuration of whoever runs it.
use_own_configuration() {
  export XDG_CONFIG_HOME=$folder/config
  export LANDFALL_ENV=demo NATS_URL=$LANDFALL_LAB_NATS_URL
}

landfall() { "$binaries/landfall" "$@"; }

public_key() { landfall init --show-key 2>/dev/null; }

await_executor() {
  local host=$1 deadline=$((SECONDS + executor_start_timeout_s))
  until landfall hosts --output json 2>/dev/null | grep "\"$host\"" >/dev/null; do
    if ((SECONDS >= deadline)) || ! kill -0 "$(<"$folder/$host/pid")" 2>/dev/null; then
      tail -n 20 "$folder/$host/executor.log" >&2
      fail "$host did not come up within $executor_start_timeout_s s" "see $folder/$host/executor.log"
    fi
    sleep 0.1
  done
}

stop_executor() {
  local pid_file=$folder/$1/pid pid
  [[ -f $pid_file ]] || return 0
  pid=$(<"$pid_file")
  if kill -TERM "$pid" 2>/dev/null; then
    timeout "$executor_stop_timeout_s" tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$pid_file"
}
