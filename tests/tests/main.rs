//! All cross-crate tests, one binary. They need the lab: run them with `make test`.
#![allow(clippy::unwrap_used)]

mod architecture;
mod audit;
mod bad_events;
mod bad_stack;
mod canary;
mod cli;
mod crashes;
mod dead_bus;
mod drift;
mod expect;
mod faults;
mod fleet;
mod gates;
mod good;
mod hostile;
mod limits;
mod migrations;
mod names;
mod once;
mod parts;
mod previews;
mod recovery;
mod registry;
mod rollback;
mod side_by_side;
mod waves;
