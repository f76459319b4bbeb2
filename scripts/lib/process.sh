# shellcheck shell=bash
# The parts of a laboratory share its variables (lab, gateway, free_port and the like); scripts/lab declares and sources them.
# shellcheck disable=SC2154,SC2034
# Background processes of one laboratory. Each carries LANDFALL_LAB_OWNER=<folder> in its environment, so that a process
# is ended because it is provably ours and never because of its name or of a reused number.

stop_deadline_s=20
kill_deadline_s=5

# start_process NAME COMMAND...: detached from the terminal, logs to NAME.log, its number in NAME.pid.
start_process() {
  local name=$1
  shift
  LANDFALL_LAB_OWNER=$lab setsid "$@" </dev/null >>"$lab/$name.log" 2>&1 9>&- &
  echo $! >"$lab/$name.pid"
}

# A process belongs to this laboratory when it was started with its mark.
is_ours() {
  grep -qzxF "LANDFALL_LAB_OWNER=$lab" "/proc/$1/environ" 2>/dev/null
}

our_processes() {
  local entry pid
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    if is_ours "$pid"; then echo "$pid"; fi
  done
}

process_alive() { [[ -e /proc/$1 && $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c 1) != Z ]]; }
process_gone() { ! process_alive "$1"; }

# stop_process NAME: SIGTERM, a deadline, SIGKILL; silent when it is gone already.
stop_process() {
  local pid
  pid=$(cat "$lab/$1.pid" 2>/dev/null) || return 0
  if is_ours "$pid"; then
    end_process "$pid"
  fi
  rm -f "$lab/$1.pid"
}

end_process() {
  kill -TERM "$1" 2>/dev/null || true
  if ! poll "$stop_deadline_s" process_gone "$1"; then
    kill -KILL "$1" 2>/dev/null || true
    poll "$kill_deadline_s" process_gone "$1" || say "warning: process $1 does not end"
  fi
}

# poll DEADLINE_S COMMAND...: until the command succeeds; fails when the deadline has passed.
poll() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then return 1; fi
    sleep 0.05
  done
}

# await NAME DEADLINE_S COMMAND...: until the started process NAME serves. One that died is not waited for.
await() {
  local name=$1 deadline=$((SECONDS + $2)) pid
  pid=$(cat "$lab/$name.pid")
  shift 2
  until "$@" >/dev/null 2>&1; do
    if process_gone "$pid" || ((SECONDS >= deadline)); then
      say "$name did not become ready; the end of $lab/$name.log:"
      tail -n 20 "$lab/$name.log" >&2 || true
      fail "$name did not start" "the log above tells why"
    fi
    sleep 0.05
  done
}

# port_answers PORT [ADDRESS]
port_answers() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }

# free_port: below the kernel's ephemeral range, so that no outgoing connection takes it between here and the bind.
free_port() {
  local port
  while true; do
    port=$((10000 + (RANDOM * 32768 + RANDOM) % 20000))
    if [[ -z $(ss -Hltn "sport = :$port") && ! " ${ports_given:-} " == *" $port "* ]]; then
      ports_given="${ports_given:-} $port"
      free_port=$port
      return
    fi
  done
}
