//! Image references, by Docker's own rules (distribution/reference).

use std::fmt;
use std::str::FromStr;

use landfall_schema::ids::{Digest, IdError};
use thiserror::Error;

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where official images are.
const OFFICIAL: &str = "library";
const REFERENCE_MAX_BYTES: usize = 512;
const TAG_MAX_BYTES: usize = 128;

/// `registry/repository[:tag][@digest]`, complete: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    /// With the port, if any.
    pub registry: String,
    /// Without the registry.
    pub path: String,
    /// `None` only beside a digest.
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    #[error("the image reference is empty")]
    Empty,
    #[error("the image reference has {bytes} bytes, at most {REFERENCE_MAX_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("{shown:?} is not an image reference: {why}")]
    Malformed { shown: String, why: &'static str },
    #[error("{shown:?} is not an image reference")]
    Digest { shown: String, source: IdError },
}

impl ImageReference {
    /// Registry and repository without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }
}

impl FromStr for ImageReference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text.len() {
            0 => return Err(ImageError::Empty),
            bytes if bytes > REFERENCE_MAX_BYTES => return Err(ImageError::TooLong { bytes }),
            _ => {}
        }
        let malformed = |why| ImageError::Malformed { shown: text.chars().take(80).collect(), why };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::new(digest)
                    .map_err(|source| ImageError::Digest { shown: text.chars().take(80).collect(), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash separates the tag; one before it, the port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(malformed(if tag.is_empty() {
                "the tag is empty"
            } else {
                "the tag has characters that are not allowed"
            }));
        }
        let (registry, path) = split_registry(name);
        if !is_registry(&registry) {
            return Err(malformed("the registry's name has characters that are not allowed"));
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(malformed("the repository's name must be lower-case"));
        }
        if !path.split('/').all(is_component) {
            return Err(malformed("the repository's name has characters that are not allowed"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry, path, tag, digest })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The first component is a registry if it has a dot or a colon, or is `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !path.contains('/') {
        return (registry.to_owned(), format!("{OFFICIAL}/{path}"));
    }
    (registry.to_owned(), path.to_owned())
}

fn is_registry(name: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphanumeric() || c == '[';
    name.starts_with(starts)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

fn is_tag(tag: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !tag.is_empty() && tag.len() <= TAG_MAX_BYTES && tag.chars().all(allowed) && !tag.starts_with(['.', '-'])
}

fn is_component(component: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.chars().all(inner) && component.starts_with(edge) && component.ends_with(edge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expect) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("acme/shop", "docker.io/acme/shop:latest"),
            ("index.docker.io/acme/shop", "docker.io/acme/shop:latest"),
            ("127.0.0.1:5000/shop:v1", "127.0.0.1:5000/shop:v1"),
            ("localhost/shop", "localhost/shop:latest"),
            ("ghcr.io/acme/team/shop:sha-1a2b", "ghcr.io/acme/team/shop:sha-1a2b"),
            ("[::1]:5000/shop:v1", "[::1]:5000/shop:v1"),
            (&format!("r.example/shop@{digest}"), &format!("r.example/shop@{digest}")),
            (&format!("r.example/shop:v1@{digest}"), &format!("r.example/shop:v1@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_in_words() {
        for (text, expect) in [
            ("", "the image reference is empty"),
            ("Shop", "must be lower-case"),
            ("shop:", "the tag is empty"),
            ("shop:a b", "the tag has characters"),
            ("shop;rm -rf", "the repository's name has characters"),
            ("r.example//shop", "the repository's name has characters"),
            ("r.exam$ple/shop", "the registry's name has characters"),
            ("--privileged.example/shop", "the registry's name has characters"),
            ("../shop", "the registry's name has characters"),
            ("shop@sha256:12", "is not an image reference"),
            (&"x".repeat(10_000), "at most 512 are allowed"),
        ] {
            let error = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn a_reference_at_its_limits_is_taken() {
        let of = |bytes: usize| "x".repeat(bytes).parse::<ImageReference>().is_ok();
        assert!(of(REFERENCE_MAX_BYTES) && !of(REFERENCE_MAX_BYTES + 1));
        let tagged = |bytes: usize| format!("x:{}", "t".repeat(bytes)).parse::<ImageReference>().is_ok();
        assert!(tagged(TAG_MAX_BYTES) && !tagged(TAG_MAX_BYTES + 1));
    }
}
