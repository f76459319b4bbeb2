//! All cross-crate tests, one binary. They need the lab: run them with `make test`.
#![allow(clippy::unwrap_used)]

mod good;
