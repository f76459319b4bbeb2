# shellcheck shell=bash
# The parts of a laboratory share its variables (lab, gateway, free_port and the like); scripts/lab and scripts/fleet declare and source them.
# shellcheck disable=SC2154,SC2034
# The folder that a laboratory or a fleet lives in, and what marks things as belonging to it.

# A socket's path holds 107 bytes at most, and the engine's longest one adds 34 to the folder's.
longest_folder_bytes=72

# A short name that is this folder's alone: it marks bridges and control groups.
lab_id() { printf '%s' "$lab" | sha256sum | cut -c 1-10; }

# check_folder KIND SCRIPT: the folder can hold sockets, and nothing is up in it.
check_folder() {
  local kind=$1 script=$2 missing
  if [[ $(id -u) != 0 ]]; then fail "a $kind needs root for its engines" "run this as root"; fi
  missing=$(missing_tools "${laboratory_tools[@]}")
  if [[ -n $missing ]]; then fail "tools are missing: $(tr '\n' ' ' <<<"$missing")" "scripts/setup"; fi
  if ((${#lab} > longest_folder_bytes)); then
    fail "the folder's path is longer than $longest_folder_bytes bytes, too long for sockets in it" "use a short one, below /tmp"
  fi
  if [[ ! $lab =~ ^[A-Za-z0-9/._-]+$ ]]; then
    fail "the folder's path has characters other than letters, digits and ._-/" "use a plain one, below /tmp"
  fi
  if [[ -e $lab/env ]]; then fail "a $kind is up in $lab already" "$script down $lab"; fi
}

declare_variable() { printf 'export %s=%q\n' "$1" "$2"; }
