//! `landfall-audit`: the first consumer of Landfall's events. It writes every release and every outcome into a ledger, once.
//!
//! In reading order: [`cli`] is the command line; [`record`] turns a message into what the ledger keeps; [`ledger`] keeps it, in SQLite
//! or PostgreSQL; [`follow`] reads the streams; [`history`] prints.

pub mod cli;
pub mod follow;
pub mod history;
pub mod ledger;
pub mod record;
