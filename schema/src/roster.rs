//! The roster: the public keys of a plan's hosts, as one JSON document in the bundle store. Its digest stands in the signed promotion, so
//! whoever trusts the promotion knows whose outcomes to believe.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Digest, HostName};
use crate::layout::BUNDLE_MAX_BYTES;
use crate::promotion::BundleRef;
use crate::signature::PublicKey;

pub const ROSTER_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Roster {
    pub version: u32,
    #[schemars(with = "BTreeMap<HostName, String>")]
    pub hosts: BTreeMap<HostName, PublicKey>,
}

#[derive(Debug, Error)]
pub enum RosterError {
    #[error("the roster has {bytes} bytes, at most {BUNDLE_MAX_BYTES} are allowed")]
    Oversized { bytes: usize },
    #[error("the roster's bytes have digest {found}, the promotion names {expected}")]
    DigestMismatch { expected: Digest, found: Digest },
    #[error("the roster is not readable")]
    Malformed(#[source] serde_json::Error),
    #[error("the roster is of version {0}, this version of Landfall knows {ROSTER_VERSION}")]
    UnknownVersion(u32),
}

impl Roster {
    pub fn new(hosts: BTreeMap<HostName, PublicKey>) -> Self {
        Self { version: ROSTER_VERSION, hosts }
    }

    /// The bytes to store and their reference.
    ///
    /// # Errors
    /// [`RosterError::Oversized`].
    pub fn encode(&self) -> Result<(Vec<u8>, BundleRef), RosterError> {
        let bytes = serde_json::to_vec(self).map_err(RosterError::Malformed)?;
        if bytes.len() > BUNDLE_MAX_BYTES {
            return Err(RosterError::Oversized { bytes: bytes.len() });
        }
        let reference = BundleRef { digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        Ok((bytes, reference))
    }

    /// Believes the bytes only if they have the digest that the signed promotion names.
    ///
    /// # Errors
    /// Any [`RosterError`].
    pub fn decode(bytes: &[u8], reference: &BundleRef) -> Result<Self, RosterError> {
        if bytes.len() > BUNDLE_MAX_BYTES {
            return Err(RosterError::Oversized { bytes: bytes.len() });
        }
        let found = Digest::of(bytes);
        if found != reference.digest {
            return Err(RosterError::DigestMismatch { expected: reference.digest.clone(), found });
        }
        let roster: Self = serde_json::from_slice(bytes).map_err(RosterError::Malformed)?;
        if roster.version != ROSTER_VERSION {
            return Err(RosterError::UnknownVersion(roster.version));
        }
        Ok(roster)
    }
}
