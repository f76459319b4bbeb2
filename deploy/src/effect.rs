//! What the machine asks its shell to do: one externally visible act each, each repeatable.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Fetch the bundle, render the stack, check it against the policy, and look at what runs. Touches nothing.
    Observe,
    /// Bring every promised image onto the host, by digest. Touches nothing that runs.
    Pull,
    /// Wait until the environment's gates and the rollout's waves let this host begin. Touches nothing.
    Admit,
    Backup,
    Migrate,
    /// `docker compose up` with the promised digests.
    Update,
    /// Watch the new containers until they are ready, and read which digests run.
    Prove,
    Smoke,
    /// Watch the proven release for the bake time.
    Bake,
    /// Record the release as what this host goes back to, and clean up images that are too old.
    Commit,
    /// Wait until the rollout has come to its end on the other hosts; a failure means to go back.
    AwaitRollout,
    /// `docker compose up` with the former release, or `down` when there was none.
    Restore,
    /// As `Prove`, of the former release.
    ProveFormer,
    /// Take the whole stack away, with its networks and volumes.
    Remove,
}

impl Effect {
    /// Whether nothing is done on this host meanwhile: it waits for others.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Admit | Self::AwaitRollout)
    }

    /// The step's noun in outcomes.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Observe => "release",
            Self::Pull => "image",
            Self::Backup => "backup",
            Self::Migrate => "migration",
            Self::Update => "stack",
            Self::Prove => "readiness",
            Self::Smoke => "smoke",
            Self::Bake => "bake",
            Self::Commit => "commit",
            Self::Admit => "admission",
            Self::AwaitRollout => "rollout",
            Self::Remove => "removal",
            Self::Restore | Self::ProveFormer => "rollback",
        }
    }
}
