//! What was asked for, and of whom.

use landfall_schema::ids::{EventId, HostName};
use landfall_schema::promotion::Promotion;
use serde::{Deserialize, Serialize};

/// A promotion that was verified, on its way to one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub host: HostName,
    /// The id of the promotion's event.
    pub id: EventId,
    pub promotion: Promotion,
}
