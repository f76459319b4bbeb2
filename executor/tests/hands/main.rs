//! The hands against a real engine and a real registry: each effect does what it says. Needs the lab: run it with `make test`.
#![allow(clippy::unwrap_used)]

mod apart;
mod bad_input;
mod drift;
mod lab;
mod migrations;
mod partial;
mod previews;
mod releases;
mod rollback;
