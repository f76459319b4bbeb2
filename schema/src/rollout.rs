//! The state of a rollout: one document per promotion in the bucket [`crate::layout::ROLLOUT`], changed by compare-and-set only. Whoever
//! decides signs it, so a reader believes it by the plan's roster and not because of where it lies.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{CloudEvent, EventError, TYPE_ROLLOUT_STATE};
use crate::ids::{AppName, Counter, EnvName, EventId, HostName};
use crate::outcome::{OutcomeKind, Reason};
use crate::planted::planted;
use crate::promotion::Promotion;
use crate::signature::{DsseEnvelope, PublicKey, SignatureError};

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

impl RolloutPhase {
    /// A rollout never comes back to a phase of a lower rank.
    fn rank(self) -> u8 {
        match self {
            Self::Rolling => 0,
            Self::Holding => 1,
            Self::RollingBack { .. } => 2,
            Self::Ended { .. } => 3,
        }
    }
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

/// Why what lies in the bucket is not the state of a rollout.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("it is no envelope")]
    Envelope(#[source] serde_json::Error),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("it says that {decided_by} decided it, but {signer} signed it, which is not the key of that host")]
    Decider { decided_by: HostName, signer: PublicKey },
    #[error("it is the state of another rollout")]
    Foreign,
}

impl RolloutState {
    /// Reads an entry of the bucket. Only the hosts of the plan's waves decide; `key_of` has their keys, by the plan's roster.
    ///
    /// # Errors
    /// [`StateError`] for what none of them decided and signed, or of another rollout.
    pub fn believe<'k>(
        entry: &[u8],
        id: EventId,
        promotion: &Promotion,
        key_of: impl Fn(&HostName) -> Option<&'k PublicKey>,
    ) -> Result<Self, StateError> {
        let envelope: DsseEnvelope = serde_json::from_slice(entry).map_err(StateError::Envelope)?;
        let keys: Vec<PublicKey> = promotion.plan.hosts().filter_map(|host| key_of(host).cloned()).collect();
        if planted("believe_any_state") {
            let bytes = envelope.unverified_payload().unwrap_or_default();
            return Ok(CloudEvent::<Self>::decode(&bytes, TYPE_ROLLOUT_STATE)?.data);
        }
        let (bytes, signer) = envelope.open(&keys)?;
        let state = CloudEvent::<Self>::decode(&bytes, TYPE_ROLLOUT_STATE)?.data;
        if promotion.plan.place_of(&state.decided_by).is_none() || key_of(&state.decided_by) != Some(&signer) {
            return Err(StateError::Decider { decided_by: state.decided_by, signer });
        }
        let about = (state.promotion, state.counter, &state.env, &state.app);
        if about != (id, promotion.counter, &promotion.env, &promotion.app) {
            return Err(StateError::Foreign);
        }
        Ok(state)
    }

    /// Whether a rollout that was seen like `before` can be like this later. An older entry that somebody wrote again is signed as well.
    pub fn follows(&self, before: &Self) -> bool {
        let is_later = match self.phase.rank().cmp(&before.phase.rank()) {
            Ordering::Less => false,
            Ordering::Equal => self.phase == before.phase,
            Ordering::Greater => true,
        };
        is_later
            && (self.wave, self.admitted) >= (before.wave, before.admitted)
            && before.not_reached.keys().all(|host| self.not_reached.contains_key(host))
    }

    /// The last word, once it was said.
    pub fn word(&self) -> Option<RolloutWord> {
        match self.phase {
            RolloutPhase::Ended { word } => Some(word),
            RolloutPhase::Rolling | RolloutPhase::Holding | RolloutPhase::RollingBack { .. } => None,
        }
    }
}
