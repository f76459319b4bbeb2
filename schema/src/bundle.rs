//! The bundle: the compose files that travel with a promotion, as one JSON document named by its digest. Secrets stay on the host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::Digest;
use crate::layout::BUNDLE_MAX_BYTES;
use crate::promotion::BundleRef;

/// Text files, in the order in which `docker compose -f` gets those that are compose files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bundle {
    pub version: u32,
    /// Compose files, later ones override earlier ones.
    pub compose: Vec<BundleFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BundleFile {
    /// A plain file name without directories.
    pub name: String,
    pub content: String,
}

pub const BUNDLE_VERSION: u32 = 1;

#[derive(Debug, Error)]
pub enum BundleError {
    #[error("the bundle has {bytes} bytes, at most {BUNDLE_MAX_BYTES} are allowed")]
    Oversized { bytes: usize },
    #[error("the bundle's bytes have digest {found}, the promotion names {expected}")]
    DigestMismatch { expected: Digest, found: Digest },
    #[error("the bundle is not readable")]
    Malformed(#[source] serde_json::Error),
    #[error("the bundle is of version {0}, this version of Landfall knows {BUNDLE_VERSION}")]
    UnknownVersion(u32),
    #[error("the bundle holds no compose file")]
    Empty,
    #[error("the bundle's file name {0:?} is not a plain file name, or is one that hosts use themselves")]
    BadName(String),
}

impl Bundle {
    /// The bytes to store and their reference.
    ///
    /// # Errors
    /// [`BundleError::Oversized`], [`BundleError::BadName`], [`BundleError::Empty`].
    pub fn encode(&self) -> Result<(Vec<u8>, BundleRef), BundleError> {
        self.check()?;
        let bytes = serde_json::to_vec(self).map_err(BundleError::Malformed)?;
        if bytes.len() > BUNDLE_MAX_BYTES {
            return Err(BundleError::Oversized { bytes: bytes.len() });
        }
        let reference = BundleRef { digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        Ok((bytes, reference))
    }

    /// Believes the bytes only if they have the digest that the signed promotion names.
    ///
    /// # Errors
    /// Any [`BundleError`].
    pub fn decode(bytes: &[u8], reference: &BundleRef) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_MAX_BYTES {
            return Err(BundleError::Oversized { bytes: bytes.len() });
        }
        let found = Digest::of(bytes);
        if found != reference.digest {
            return Err(BundleError::DigestMismatch { expected: reference.digest.clone(), found });
        }
        let bundle: Self = serde_json::from_slice(bytes).map_err(BundleError::Malformed)?;
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), BundleError> {
        if self.version != BUNDLE_VERSION {
            return Err(BundleError::UnknownVersion(self.version));
        }
        if self.compose.is_empty() {
            return Err(BundleError::Empty);
        }
        match self.compose.iter().find(|file| !is_plain_file_name(&file.name)) {
            Some(file) => Err(BundleError::BadName(file.name.clone())),
            None => Ok(()),
        }
    }
}

/// Hosts write their own files of these names beside the bundle's.
const RESERVED_NAMES: [&str; 2] = ["landfall.override.yml", "former.override.yml"];
const RESERVED_SUFFIX: &str = ".landfall.json";

fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && !RESERVED_NAMES.contains(&name)
        && !name.ends_with(RESERVED_SUFFIX)
        && name.len() <= 128
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hosts_use_are_refused() {
        let named = |name: &str| Bundle {
            version: BUNDLE_VERSION,
            compose: vec![BundleFile { name: name.to_owned(), content: "services: {}".to_owned() }],
        };
        for bad in ["landfall.override.yml", "former.override.yml", "bundle.landfall.json", "../x.yml", ".env", ""] {
            assert!(matches!(named(bad).encode(), Err(BundleError::BadName(_))), "{bad}");
        }
        for good in ["compose.yml", "landfall.yml", "override.landfall.yml"] {
            assert!(named(good).encode().is_ok(), "{good}");
        }
    }
}
