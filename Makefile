# Every recipe runs alike on a laptop and in CI (.ci/run calls the same ones).
.DEFAULT_GOAL := help
.PHONY: help setup demo fleet test test-fleet crash faults fuzz simulate simulate-crashes simulate-planted bench bench-scale soak lint schemas

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (Debian, as root), or say what is missing and how to get it
	@scripts/setup

demo: setup ## the main job on real parts: three releases on two hosts, the third rolls back (KEEP=1 leaves it up)
	cargo build --bins
	@scripts/demo

fleet: setup ## a good and a broken release across eight real Docker hosts (KEEP=1 leaves it up)
	cargo build --bins
	@scripts/fleet-demo

test: ## every test, on real NATS, Docker, registry and PostgreSQL
	@scripts/test

test-fleet: ## the tests of one release across a fleet, on eight real Docker hosts
	@scripts/test --fleet

crash: ## the executor killed with SIGKILL at every failpoint, once and twice, on every way a deploy can go; ends with a table
	@scripts/test --crash

faults: ## every fault on real parts, ten to twenty minutes: engines and databases that die, networks, disks, clocks, journals
	@scripts/faults

SECONDS ?= 10
fuzz: ## every fuzz target for SECONDS each (10), and how much was tried
	@scripts/fuzz $(SECONDS)

DEPLOYS ?= 100000
SEED ?= 1
simulate: ## DEPLOYS simulated deploys (100000) from SEED (1) under random faults, judged by oracles; an optimising build
	cargo run --release --package landfall-simulation -- run --deploys $(DEPLOYS) --seed $(SEED)

simulate-crashes: ## the simulated executor killed before and after every write and every effect, once and twice
	cargo run --release --package landfall-simulation -- crashes

simulate-planted: ## every planted bug, and which oracle finds it after how many runs
	cargo run --release --package landfall-simulation -- planted

bench: setup ## Landfall against the bare engine API, docker compose by hand and ssh; on one host and on eight
	@scripts/bench host fleet

bench-scale: setup ## thousands of simulated hosts on one NATS server: time, memory, and how they grow
	@scripts/bench scale

soak: setup ## releases and faults at random on real hosts, then the oracles (MINUTES=30, SEED=…, HOSTS=3)
	@scripts/soak $(or $(MINUTES),30) $(SEED)

lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

schemas: ## write the JSON Schema files from the types
	cargo run --quiet --package landfall-schema --bin schema-gen
