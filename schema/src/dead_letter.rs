//! A message that an executor could not believe, kept whole for people to look at.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{EnvName, HostName};
use crate::outcome::Reason;

/// The data of `dev.landfall.deadletter.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    pub env: EnvName,
    pub host: HostName,
    /// Where the message came from.
    pub stream: String,
    pub sequence: u64,
    pub subject: String,
    pub reason: Reason,
    /// The message's body in base64, cut after [`BODY_MAX_BYTES`] bytes.
    pub body_base64: String,
    pub body_bytes: u64,
    /// The signature header as it came, cut after 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Most bytes of the original body that are kept.
pub const BODY_MAX_BYTES: usize = 32 * 1024;
