# shellcheck shell=bash
# The parts of a laboratory share its variables (lab, gateway, free_port and the like); scripts/lab declares and sources them.
# shellcheck disable=SC2154,SC2034
# What stands beside the engine: NATS with JetStream, two registries and PostgreSQL.

service_deadline_s=30

# Where the parts listen for programs of this machine and of other Docker hosts on it. The bridge of an engine that was there before may
# be elsewhere (Docker Desktop has it in a virtual machine); then this machine is all that is served.
services_address() {
  if [[ $(ip route get "$gateway" 2>/dev/null) == local* ]]; then echo "$gateway"; else echo 127.0.0.1; fi
}

start_nats() {
  free_port
  nats_port=$free_port
  mkdir -p "$lab/nats"
  cat >"$lab/nats/nats.conf" <<CONF
listen: "$(services_address):$nats_port"
server_name: "lab"
jetstream: {store_dir: "$lab/nats/store"}
CONF
  start_process nats "$(tool_path nats-server)" --config "$lab/nats/nats.conf"
  await nats "$service_deadline_s" grep -q 'Server is ready' "$lab/nats.log"
}

# start_registry NAME [AUTH]: sets registry_port. Deleting is on, because clean-up is something to be tested.
start_registry() {
  local name=$1 auth=${2:-}
  free_port
  registry_port=$free_port
  mkdir -p "$lab/$name"
  write_registry_config "$lab/$name/data" "127.0.0.1:$registry_port" "$auth" >"$lab/$name/config.yml"
  start_process "$name" "$(tool_path docker-registry)" serve "$lab/$name/config.yml"
  await "$name" "$service_deadline_s" port_answers "$registry_port"
}

# A registry listens at one address only, so a second one serves the same folder at the gateway's.
open_registry_to_containers() {
  if [[ $(services_address) != "$gateway" ]]; then return 0; fi
  write_registry_config "$lab/registry/data" "$open_registry_gateway" >"$lab/registry/gateway.yml"
  start_process registry-gateway "$(tool_path docker-registry)" serve "$lab/registry/gateway.yml"
  await registry-gateway "$service_deadline_s" port_answers "$registry_port" "$gateway"
}

# write_registry_config DATA ADDRESS [AUTH]
write_registry_config() {
  cat <<YAML
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: $1}
  delete: {enabled: true}
http: {addr: "$2"}
${3:-}
YAML
}

start_registry_with_auth() {
  mkdir -p "$lab/registry-auth"
  "$(tool_path htpasswd)" -Bbc -C 4 "$lab/registry-auth/htpasswd" ci secret 2>/dev/null
  start_registry registry-auth "auth: {htpasswd: {realm: lab, path: $lab/registry-auth/htpasswd}}"
}

# PostgreSQL refuses to run as root, so the cluster belongs to the user `postgres`, who must be able to reach its folder.
start_postgres() {
  local data=$lab/postgres/data
  free_port
  postgres_port=$free_port
  postgres_password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  mkdir -p "$lab/postgres"
  chown postgres "$lab/postgres"
  chmod a+x "$lab"
  if ! as_postgres test -x "$lab/postgres"; then
    fail "the user postgres cannot enter $lab" "use a folder below /tmp or /var/tmp"
  fi
  (umask 077; echo "$postgres_password" >"$lab/postgres/password"; chown postgres "$lab/postgres/password")
  as_postgres "$(tool_path initdb)" --pgdata "$data" --username landfall --pwfile "$lab/postgres/password" \
    --auth scram-sha-256 --encoding UTF8 --locale C.UTF-8 --no-sync >"$lab/postgres.log" 2>&1 ||
    { tail "$lab/postgres.log" >&2; fail "initdb failed" "see $lab/postgres.log"; }
  # It listens on two addresses only, both of this machine; whoever reaches them still needs the password.
  echo 'host all all 0.0.0.0/0 scram-sha-256' >>"$data/pg_hba.conf"
  LANDFALL_LAB_OWNER=$lab as_postgres "$(tool_path pg_ctl)" start --silent --wait --timeout "$service_deadline_s" \
    --pgdata "$data" --log "$data/server.log" --options "$(postgres_options)" </dev/null >/dev/null 2>&1 ||
    { tail "$data/server.log" >&2; fail "PostgreSQL did not start" "the log above tells why"; }
  PGPASSWORD=$postgres_password "$(tool_path psql)" --quiet --no-psqlrc --host 127.0.0.1 --port "$postgres_port" --username landfall \
    --dbname postgres --command 'CREATE DATABASE landfall' >&2
}

# Durability is switched off: the cluster lives for one test run.
postgres_options() {
  printf -- "-c port=%s -c listen_addresses=127.0.0.1,%s -c unix_socket_directories= -c max_connections=300" "$postgres_port" "$gateway"
  printf -- " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
}

as_postgres() { runuser -u postgres -- "$@"; }

stop_postgres() {
  local data=$lab/postgres/data
  if [[ ! -e $data/postmaster.pid ]]; then return 0; fi
  as_postgres "$(tool_path pg_ctl)" stop --silent --mode immediate --timeout "$stop_deadline_s" --pgdata "$data" >/dev/null 2>&1 || true
}
