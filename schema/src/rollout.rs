//! The state of a rollout: one document per promotion in the bucket [`crate::layout::ROLLOUT`], changed by compare-and-set only. Whoever
//! decides signs it, so a reader believes it by the plan's roster and not because of where it lies.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, EnvName, EventId, HostName};
use crate::outcome::{OutcomeKind, Reason};

/// The data of `dev.landfall.rollout.state.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutState {
    pub env: EnvName,
    pub app: AppName,
    pub counter: Counter,
    /// The id of the promotion's event.
    pub promotion: EventId,
    pub phase: RolloutPhase,
    /// The wave that is open, from 0.
    pub wave: u32,
    /// The first so many hosts of that wave may deploy.
    pub admitted: u32,
    /// Why it does not go on, or went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Reason>,
    /// Hosts of the plan that the rollout went on without, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_reached: BTreeMap<HostName, String>,
    /// Hosts that are not what the last word says of the others, and what is known of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub differing: BTreeMap<HostName, String>,
    /// The host that decided this.
    pub decided_by: HostName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum RolloutPhase {
    /// Wave by wave.
    Rolling,
    /// It failed under `on_failure: hold`; those under way come to their end.
    Holding,
    /// Every host that had moved goes back; `aborted` when people asked for it.
    RollingBack {
        aborted: bool,
    },
    Ended {
        word: RolloutWord,
    },
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutWord {
    Succeeded,
    SucceededPartial,
    RolledBack,
    Held,
    Mixed,
    Aborted,
}

impl RolloutWord {
    /// The event that says it.
    pub fn outcome_kind(self) -> OutcomeKind {
        match self {
            Self::Succeeded => OutcomeKind::RolloutSucceeded,
            Self::SucceededPartial => OutcomeKind::RolloutSucceededPartial,
            Self::RolledBack => OutcomeKind::RolloutRolledBack,
            Self::Held => OutcomeKind::RolloutHeld,
            Self::Mixed => OutcomeKind::RolloutMixed,
            Self::Aborted => OutcomeKind::RolloutAborted,
        }
    }
}

impl RolloutState {
    /// The last word, once it was said.
    pub fn word(&self) -> Option<RolloutWord> {
        match self.phase {
            RolloutPhase::Ended { word } => Some(word),
            RolloutPhase::Rolling | RolloutPhase::Holding | RolloutPhase::RollingBack { .. } => None,
        }
    }
}
