//! The hands against a real engine and a real registry: each effect does what it says. Needs the lab: run it with `make test`.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod lab;
mod migrations;
mod releases;
mod rollback;
