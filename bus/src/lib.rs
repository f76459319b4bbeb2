//! Landfall's side of NATS: one connection, the streams and buckets of `schema::layout`, and the few things that are said over them.
//! Nothing here decides anything; bytes go in and out exactly as they are signed.
//!
//! In reading order: [`connection`] connects and holds the handles; [`layout`] compares streams and buckets with the server and creates
//! them; [`promotions`] writes and reads releases; [`outcomes`] follows what hosts say; [`consumer`] is an executor's durable and its
//! sweep; [`entries`] are the key-value buckets; [`bundles`] keeps compose files; [`delivered`] is a message as it was read, [`receipt`] settles it; [`error`] names every operation that can fail.

pub mod bundles;
pub mod connection;
pub mod consumer;
pub mod delivered;
pub mod entries;
pub mod error;
pub mod layout;
pub mod outcomes;
pub mod promotions;
pub mod receipt;
#[cfg(feature = "simulation")]
pub mod simulated;

pub use connection::{Address, Bus, ConnectOptions};
pub use delivered::Delivered;
pub use entries::Entry;
pub use error::BusError;
pub use layout::{LayoutChange, Setting};
pub use outcomes::OutcomesFrom;
pub use receipt::{Receipt, Settlement};
