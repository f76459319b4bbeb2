//! Behind `landfall`, the command line for CI and for operators.
//!
//! In reading order: [`cli`] is the command line, [`run`] takes it to its end; [`context`] finds the settings and [`session`] hands them
//! to the commands; [`output`] prints; [`error`] lists exit codes; [`promoters`] and [`host_keys`] say whom to believe. Each command is a
//! module of its own: [`init`], [`bus_apply`], [`promote`], [`rollback`], [`halt`], [`preview`], [`status`], [`history`], [`watch`],
//! [`hosts`], [`lint`], [`doctor`], [`complete`].

pub mod bus_apply;
pub mod ci;
pub mod cli;
pub mod complete;
pub mod compose;
pub mod context;
pub mod doctor;
pub mod error;
#[cfg(test)]
mod fixtures;
pub mod follow;
#[cfg(test)]
mod fuzz;
pub mod gates;
pub mod halt;
pub mod history;
pub mod host_keys;
pub mod hosts;
pub mod image;
pub mod init;
pub mod lint;
pub mod migration;
pub mod output;
pub mod plan;
pub mod preview;
pub mod promote;
pub mod promoters;
pub mod publish;
pub mod reading;
pub mod registry;
pub mod rollback;
pub mod rollout;
pub mod rollout_args;
pub mod run;
pub mod session;
pub mod status;
pub mod target;
pub mod watch;
