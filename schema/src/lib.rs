//! The wire contract of Landfall: what travels on the bus and in the compose file, and nothing else. No IO, no clock.
//!
//! In reading order: [`ids`] are the names everything is made of; [`subject`] spells the subjects; [`layout`] lists streams and
//! buckets as data; [`event`] is the CloudEvents envelope with [`promotion`], [`halt`], [`outcome`], [`rollout`], [`lease`],
//! [`presence`] and [`dead_letter`] inside; [`gates`] are the rules of an environment; [`signature`] signs and verifies exact bytes;
//! [`bundle`] is the stack's configuration and [`roster`] the hosts' keys that travel with a promotion; [`stack`] holds the `x-landfall`
//! settings of a compose file, [`wave_size`] a word of them, and [`compatibility`] which releases a schema serves; [`json_schema`]
//! describes all of it for other programs.

pub mod bundle;
pub mod compatibility;
pub mod dead_letter;
pub mod event;
pub mod gates;
pub mod halt;
pub mod ids;
pub mod json_schema;
pub mod layout;
pub mod lease;
pub mod outcome;
pub mod planted;
pub mod presence;
pub mod promotion;
pub mod rollout;
pub mod roster;
pub mod signature;
pub mod stack;
pub mod subject;
pub mod wave_size;

pub use jiff::Timestamp;
