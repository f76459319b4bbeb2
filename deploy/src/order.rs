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

impl Order {
    /// How long this host watches the proven release, in milliseconds. The promotion's own time wins over the stack's; this host's wave may
    /// have a longer one.
    pub fn bake_ms(&self, of_stack_ms: u64) -> u64 {
        let plan = &self.promotion.plan;
        let of_wave = plan.place_of(&self.host).and_then(|(wave, _)| plan.waves[wave].bake_ms);
        match (of_wave, plan.bake_ms) {
            (Some(of_wave), of_plan) => of_wave.max(of_plan),
            (None, 0) => of_stack_ms,
            (None, of_plan) => of_plan,
        }
    }
}
