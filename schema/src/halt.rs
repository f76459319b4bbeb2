//! What an operator says about a rollout under way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, EnvName, EventId};

/// The data of `dev.landfall.release.halted.v1`, signed by a key that may promote. The newest one counts, for its promotion alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Halt {
    pub env: EnvName,
    pub app: AppName,
    pub counter: Counter,
    /// The id of the promotion's event.
    pub promotion: EventId,
    pub command: HaltCommand,
    /// For people.
    pub reason: String,
    /// Who said it: a person or a CI job, for people to read.
    pub author: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HaltCommand {
    /// No further host begins; those under way finish.
    Halt,
    /// Takes a halt back.
    Resume,
    /// No further host begins, and every host that had moved goes back.
    Abort,
}
