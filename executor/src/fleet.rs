//! This host among the others of its plan: when it may begin, and how the rollout ended.

use landfall_deploy::{Evidence, Order};
use landfall_schema::outcome::Reason;
use landfall_schema::rollout::RolloutWord;
use tokio::sync::mpsc;

/// What a host knows of the fleet, and does for it.
#[derive(Debug, Default)]
pub struct Fleet;

impl Fleet {
    /// Waits until this host may begin. Cancel-safe.
    ///
    /// # Errors
    /// The rule that forbids it, or how the rollout ended without this host.
    pub async fn admit(&self, _order: &Order, _waiting: &mpsc::Sender<String>) -> Result<Evidence, Reason> {
        Ok(Evidence::Admitted)
    }

    /// Waits for the rollout's end. Cancel-safe.
    ///
    /// # Errors
    /// Why this host has to go back.
    pub async fn await_rollout(&self, _order: &Order, _waiting: &mpsc::Sender<String>) -> Result<Evidence, Reason> {
        Ok(Evidence::RolloutEnded { word: RolloutWord::Succeeded })
    }
}
