# shellcheck shell=bash
# The parts of a laboratory share its variables (lab, gateway, free_port and the like); scripts/lab declares and sources them.
# shellcheck disable=SC2154,SC2034
# The Docker engine of a laboratory: its own dockerd and containerd, in the host's network namespace, so that published
# ports answer at 127.0.0.1. It touches no firewall rule: published ports go through docker-proxy, which needs none.
# Several of these run side by side, and beside an engine the machine already has.

engine_deadline_s=60
forwarding=/proc/sys/net/ipv4/ip_forward
forwarding_was_off=/run/landfall-lab.forwarding-was-off

start_own_engine() {
  claim_network
  write_engine_config
  start_process containerd "$(tool_path containerd)" --config "$lab/engine/containerd.toml"
  await containerd "$engine_deadline_s" test -S "$lab/containerd.sock"
  start_process dockerd "$(tool_path dockerd)" --config-file "$lab/engine/dockerd.json"
  await dockerd "$engine_deadline_s" docker --host "unix://$lab/docker.sock" version
  docker_host=unix://$lab/docker.sock
}

# claim_network: a bridge of our own on a /16 that nothing here routes. The bridge is the claim, made under a lock.
claim_network() {
  bridge=lf$(lab_id)
  lock_networks
  network=$(free_network)
  gateway=$network.0.1
  echo "$network" >"$lab/network"
  ip link add "$bridge" type bridge
  ip address add "$gateway/24" dev "$bridge"
  ip link set "$bridge" up
  enable_forwarding
  exec 9>&-
  allow_forwarding
}

lock_networks() {
  exec 9>/run/landfall-lab.lock
  flock 9
}

# Every engine wants forwarding on and warns at each container when it is off. The last laboratory to go switches it off
# again, unless an engine of the machine's own has come to rely on it.
enable_forwarding() {
  if [[ $(<"$forwarding") == 0 ]]; then
    touch "$forwarding_was_off"
    echo 1 >"$forwarding"
  fi
}

restore_forwarding() {
  if [[ ! -e $forwarding_was_off ]] || compgen -G '/sys/class/net/lf??????????' >/dev/null; then return 0; fi
  if ! ip link show docker0 >/dev/null 2>&1; then echo 0 >"$forwarding"; fi
  rm -f "$forwarding_was_off"
}

# Another laboratory's engine adds bridges of 10.N.x.x at any time, so the whole 10.N counts as taken by its first address.
free_network() {
  local second taken
  taken=$(ip -4 -o route show table all; ip -4 -o address)
  for second in {211..250} {100..210}; do
    if ! grep -qE "[^0-9]10\.$second\." <<<" $taken"; then
      echo "10.$second"
      return
    fi
  done
  fail "no free network 10.100.0.0/16 to 10.250.0.0/16 is left" "scripts/lab down the laboratories that are not needed"
}

# An engine of the machine may have set the FORWARD policy to DROP, which (through br_netfilter) cuts off our bridges too.
allow_forwarding() {
  if grep -qx -- '-P FORWARD DROP' <<<"$(iptables -w -S FORWARD 2>/dev/null)"; then
    iptables -w -I FORWARD -s "$network.0.0/16" -d "$network.0.0/16" -j ACCEPT
  fi
}

forbid_forwarding() {
  while iptables -w -D FORWARD -s "$1.0.0/16" -d "$1.0.0/16" -j ACCEPT 2>/dev/null; do :; done
}

write_engine_config() {
  mkdir -p "$lab/engine"
  cat >"$lab/engine/containerd.toml" <<TOML
version = 2
root = "$lab/engine/containerd"
state = "$lab/engine/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$lab/containerd.sock"
TOML
  # The pools give hundreds of small networks: every compose project of every test makes one.
  cat >"$lab/engine/dockerd.json" <<JSON
{
  "hosts": ["unix://$lab/docker.sock"],
  "group": "root",
  "data-root": "$lab/engine/data",
  "exec-root": "$lab/run",
  "pidfile": "$lab/engine/dockerd.pid",
  "deprecated-key-path": "$lab/engine/key.json",
  "containerd": "$lab/containerd.sock",
  "bridge": "$bridge",
  "iptables": false,
  "ip6tables": false,
  "ip-forward": false,
  "ip-masq": false,
  "default-address-pools": [{"base": "$network.128.0/17", "size": 27}],
  "insecure-registries": ["$gateway/32"],
  "cgroup-parent": "/landfall-$(lab_id)",
  "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "shutdown-timeout": 5
}
JSON
}

# The engine that answers already, if it is on this machine: only then are its published ports at 127.0.0.1.
existing_engine() {
  local host=${DOCKER_HOST:-}
  if [[ -z $host ]]; then host=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) || return 1; fi
  [[ $host == unix://* ]] && timeout 10 docker --host "$host" version >/dev/null 2>&1 && echo "$host"
}

use_existing_engine() {
  docker_host=$1
  gateway=$(docker --host "$docker_host" network inspect bridge --format '{{range .IPAM.Config}}{{.Gateway}} {{end}}' |
    tr ' ' '\n' | grep -E '^[0-9.]+$' | head -n 1) || fail "the engine at $docker_host has no bridge network with a gateway" \
    "scripts/lab up --engine=own starts an engine of its own"
}

# stop_own_engine: asks first (containers, networks), then takes away what is left of a part that was killed.
stop_own_engine() {
  local client=(timeout "$stop_deadline_s" docker --host "unix://$lab/docker.sock")
  if [[ -S $lab/docker.sock ]] && timeout 5 docker --host "unix://$lab/docker.sock" version >/dev/null 2>&1; then
    "${client[@]}" ps -aq | xargs -r "${client[@]}" rm --force --volumes >/dev/null 2>&1 || true
    "${client[@]}" network prune --force >/dev/null 2>&1 || true
  fi
  stop_process dockerd
  end_control_groups
  stop_process containerd
  unmount_all
  remove_network
}

# Whatever still runs in our control group is a container's process that lost its engine.
end_control_groups() {
  local folder pid
  while read -r folder; do
    while read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done < <(sort -u "$folder/cgroup.procs" 2>/dev/null)
  done < <(our_control_groups)
  while read -r folder; do
    poll "$kill_deadline_s" rmdir "$folder" || say "warning: cannot remove $folder"
  done < <(our_control_groups)
}

our_control_groups() { find /sys/fs/cgroup -depth -type d -path "*/landfall-$(lab_id)*" 2>/dev/null || true; }

unmount_all() {
  local target
  while read -r target; do
    umount --lazy "$target" 2>/dev/null || true
  done < <(awk -v lab="$lab/" 'index($5, lab) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
}

# Bridges of compose projects carry addresses of our own /16: with the engine gone they are nobody else's.
remove_network() {
  local name network
  network=$(cat "$lab/network" 2>/dev/null) || return 0
  lock_networks
  ip link delete "lf$(lab_id)" 2>/dev/null || true
  while read -r name; do
    ip link delete "$name" 2>/dev/null || true
  done < <(ip -4 -o address | awk -v net="$network." 'index($4, net) == 1 { print $2 }')
  restore_forwarding
  exec 9>&-
  forbid_forwarding "$network"
  rm -f "$lab/network"
}
