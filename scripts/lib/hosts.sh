# shellcheck shell=bash
# The parts of a fleet share its variables (lab, network and the like); scripts/fleet declares and sources them.
# shellcheck disable=SC2154
# The Docker hosts of a fleet. A host is a network and a mount namespace, held open by a process that does nothing; its engine runs in
# them and finds a /run of its own, so that it meets nothing of the machine's engine or of another host's. Whoever wants to be on the
# host's network enters the namespace of the holder. When its processes are gone, so are its network, its mounts and its firewall.

host_deadline_s=60
# Host number N has the address NETWORK.0.(N + this).
first_address=10

host_holder() { cat "$lab/$1.pid"; }
host_namespace() { printf '/proc/%s/ns/net' "$(host_holder "$1")"; }
host_address() { printf '%s.0.%d' "$network" "$((first_address + ${1#h}))"; }
host_socket() { printf '%s/%s/docker.sock' "$lab" "$1"; }
host_names() { seq -f 'h%g' "$1"; }

# All engines start at the same time: what takes long is waiting.
start_hosts() {
  local name
  for name in $(host_names "$1"); do start_holder "$name"; done
  for name in $(host_names "$1"); do
    await "$name" "$host_deadline_s" test -e "/proc/$(host_holder "$name")/root/run/holder"
    connect_host "$name"
    write_host_config "$name"
    start_host_engine "$name"
  done
  mkdir -p "$lab/leases"
  for name in $(host_names "$1"); do
    await_host_engine "$name"
    touch "$lab/leases/$name"
    printf '%s %s %s %s %s\n' "$name" "$(host_address "$name")" "$(host_namespace "$name")" "$(host_socket "$name")" "$lab/$name-engine.pid"
  done >"$lab/hosts"
}

start_holder() {
  start_process "$1" unshare --net --mount --propagation private -- \
    sh -c 'mount -t tmpfs -o mode=755 tmpfs /run && touch /run/holder && exec sleep infinity'
}

# A cable from the fleet's bridge to the host's eth0. The end that is ours goes with the other one.
connect_host() {
  local name=$1 cable
  cable=lf$(lab_id)$name
  ip link add "$cable" type veth peer name eth0 netns "$(host_holder "$name")"
  ip link set "$cable" master "$bridge" up
  nsenter --net="$(host_namespace "$name")" ip -batch - <<IP
address add $(host_address "$name")/24 dev eth0
link set lo up
link set eth0 up
route add default via $gateway
IP
}

write_host_config() {
  local name=$1
  mkdir -p "$lab/$name"
  cat >"$lab/$name/dockerd.json" <<JSON
{
  "hosts": ["unix://$(host_socket "$name")"],
  "group": "root",
  "data-root": "$lab/$name/data",
  "exec-root": "/run/docker",
  "pidfile": "/run/docker.pid",
  "deprecated-key-path": "$lab/$name/key.json",
  "bip": "$network.64.1/24",
  "default-address-pools": [{"base": "$network.128.0/17", "size": 27}],
  "insecure-registries": ["$LANDFALL_LAB_GATEWAY/32"],
  "cgroup-parent": "/landfall-$(lab_id)-$name",
  "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "shutdown-timeout": 5
}
JSON
}

start_host_engine() {
  start_process "$1-engine" nsenter --target "$(host_holder "$1")" --net --mount -- \
    "$(tool_path dockerd)" --config-file "$lab/$1/dockerd.json"
}

# An engine takes the number in its file for a running one as long as the killed process waits to be reaped.
forget_killed_engine() {
  local run
  run=/proc/$(host_holder "$1")/root/run
  rm -f "$run/docker.pid" "$run/docker/containerd/containerd.pid"
}

await_host_engine() { await "$1-engine" "$host_deadline_s" docker --host "unix://$(host_socket "$1")" version; }

# Nothing of a host is kept, so nobody is asked to end in good order: engines first, which would restart what their containers lose.
end_hosts() {
  local pid pids=() pid_file
  for pid_file in "$lab"/h*-engine.pid; do
    if pid=$(cat "$pid_file" 2>/dev/null) && is_ours "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
  done
  mapfile -t pids < <(our_processes)
  if ((${#pids[@]})); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
  end_control_groups
  for pid in "${pids[@]}"; do
    poll "$kill_deadline_s" process_gone "$pid" || say "warning: process $pid does not end"
  done
}
