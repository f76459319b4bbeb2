//! The daemon of one Docker host: it takes its environment's promotions from the bus, lets the engine of `landfall-deploy` decide, carries
//! out what that asks for, and tells the bus what became of it.
//!
//! In reading order: [`config`] and [`check`] come before everything; [`daemon`] is the one loop; [`link`] is the connection to the bus
//! and what comes from it; [`intake`] judges a message; [`journal`] remembers; [`worker`] runs one application's deploys; [`site`] is the machine it works on; [`hands`] touches
//! the host; [`announce`] words and signs events, [`outbox`] publishes them, [`settle`] acknowledges; [`presence`] says that this host is here; [`identity`] is its key; [`world`] is what no process controls.
//! `failpoint` is for tests that kill this process; builds without its feature have nothing of it.

pub mod announce;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
mod failpoint;
pub mod fleet;
pub mod gates;
pub mod hands;
pub mod identity;
pub mod intake;
pub mod journal;
pub mod leases;
pub mod link;
pub mod outbox;
pub mod pace;
pub mod presence;
pub mod settle;
pub mod site;
pub mod worker;
pub mod world;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod samples;

/// An error with what caused it, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        below = cause.source();
    }
    text
}

/// What a person is told of an error: what happened with its causes, and the hint that some end with.
pub fn told(error: &dyn std::error::Error) -> (String, Option<String>) {
    let own = error.to_string();
    let (what, hint) = match own.split_once(HINT) {
        Some((what, hint)) => (what, Some(hint.to_owned())),
        None => (own.as_str(), None),
    };
    match error.source().map(causes) {
        // The mistakes of a configuration are a list, each with a hint of its own.
        None => (own.clone(), None),
        Some(cause) => (format!("{what}: {cause}"), hint),
    }
}

const HINT: &str = "\n  hint: ";
