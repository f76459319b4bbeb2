# shellcheck shell=bash
# Narration for every script: what happened goes to stderr, data alone goes to stdout.

say() { printf '%s\n' "$*" >&2; }

# fail MESSAGE [HINT]: an error a person meets always ends with what to do next.
fail() {
  say "error: $1"
  if [[ -n "${2:-}" ]]; then say "hint: $2"; fi
  exit 1
}
