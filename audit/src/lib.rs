//! The audit service: a consumer of the bus that stores every promotion and every outcome in a ledger, and answers from there.
//!
//! In reading order: [`settings`] is what was asked for; [`trust`] judges signatures; [`record`] reads a message as what it is; [`ledger`]
//! keeps records in SQLite or PostgreSQL; [`consumer`] is the durable on a stream; [`follow`] moves messages from there into the
//! ledger; [`service`] runs and ends it all; [`history`] tells what became of each promotion; [`cli`] is the command line.

pub mod cli;
pub mod consumer;
pub mod follow;
pub mod history;
pub mod ledger;
pub mod record;
pub mod service;
pub mod settings;
pub mod trust;
