//! The harness of the cross-crate tests: every part is real, every test has its own.
//!
//! The parts that all tests share (the Docker engine, the registries, PostgreSQL, the NATS server's program) come from the lab that
//! `make test` starts; [`lab`] finds them. In reading order: [`names`] keeps tests apart; [`process`] runs and ends children;
//! [`nats`], [`database`], [`image`], [`registry`] and [`engine`] are one real part each; [`executor`] and [`cli`] run the real
//! programs; [`stack`] writes compose files and [`promotion`] signs events; [`outcomes`] waits for what is published; [`scenario`] puts
//! one environment together and takes it apart again; [`fleet`] does so on several real Docker hosts; [`usage`] weighs processes. Faults that are made to happen:
//! [`failpoints`] says where an executor ends itself;
//! [`registry_proxy`], [`tcp_proxy`], [`silent_engine`], [`small_disk`], [`clock`], [`postgres`]; [`fault`] counts them.

pub mod cli;
pub mod clock;
pub mod database;
pub mod engine;
pub mod executor;
pub mod failpoints;
pub mod fault;
pub mod fleet;
pub mod http;
pub mod image;
pub mod lab;
pub mod names;
pub mod nats;
pub mod outcomes;
pub mod postgres;
pub mod process;
pub mod promotion;
pub mod registry;
pub mod registry_proxy;
pub mod scenario;
pub mod silent_engine;
pub mod small_disk;
pub mod stack;
pub mod tcp_proxy;
pub mod usage;
