//! Which releases a schema still serves: SemVer requirements against release names. Rollbacks restore images and never the schema, so a
//! release says how far back that goes well.

use semver::{BuildMetadata, Prerelease, Version, VersionReq};
use thiserror::Error;

use crate::ids::ReleaseName;

/// A requirement that cannot be read.
#[derive(Debug, Error)]
#[error("{text:.60?} is no SemVer requirement such as \">= 1.4\"")]
pub struct BadRequirement {
    text: String,
    source: semver::Error,
}

/// What a release says of the releases that its schema serves, e.g. `>= 1.4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement(VersionReq);

/// Whether a release can work with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Yes,
    No,
    /// The release's name is no version.
    CannotTell,
}

impl Requirement {
    /// # Errors
    /// [`BadRequirement`].
    pub fn new(text: &str) -> Result<Self, BadRequirement> {
        VersionReq::parse(text).map(Self).map_err(|source| BadRequirement { text: text.to_owned(), source })
    }

    pub fn serves(&self, release: &ReleaseName) -> Served {
        match version(release) {
            None => Served::CannotTell,
            Some(version) if self.0.matches(&version) => Served::Yes,
            Some(_) => Served::No,
        }
    }
}

/// `v1.4` counts as 1.4.0, and a pre-release as the version that it is going to be: its code expects that version's schema.
fn version(release: &ReleaseName) -> Option<Version> {
    let text = release.as_str();
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let numbers = match numbers.split('.').count() {
        1 => format!("{numbers}.0.0"),
        2 => format!("{numbers}.0"),
        _ => numbers.to_owned(),
    };
    let mut version = Version::parse(&format!("{numbers}{rest}")).ok()?;
    version.pre = Prerelease::EMPTY;
    version.build = BuildMetadata::EMPTY;
    Some(version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn releases_against_requirements() {
        use Served::{CannotTell, No, Yes};
        for (requirement, release, expect) in [
            (">= 1.4", "1.4.0", Yes),
            (">= 1.4", "v1.4", Yes),
            (">= 1.4", "v2", Yes),
            (">= 1.4", "1.3.9", No),
            (">= 1.4", "1.4.0-rc.1", Yes),
            (">= 1.4", "v1.3-rc.1", No),
            (">= 1.4, < 3", "3.0.0", No),
            ("^2", "2.9.1+build.7", Yes),
            ("*", "0.1.0", Yes),
            (">= 1.4", "sha-1a2b3c", CannotTell),
            (">= 1.4", "2026-11-21", Yes),
            (">= 1.4", "1.2.3.4", CannotTell),
            (">= 1.4", "v", CannotTell),
        ] {
            let found = Requirement::new(requirement).unwrap().serves(&ReleaseName::new(release).unwrap());
            assert_eq!(found, expect, "{release} against {requirement}");
        }
        for text in ["newer", ">= x.y", "1.2.3.4"] {
            assert!(Requirement::new(text).is_err(), "{text}");
        }
    }
}
