//! What the wire contract refuses, and in which words.
#![allow(clippy::unwrap_used)]

mod bundle;
mod event;
mod ids;
mod limits;
mod signature;
mod subject;
