//! Newtyped names and numbers. Each is parsed once, at the edge, and passed on as what it is.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Longest environment, application, host or service name, in bytes.
pub const NAME_MAX_BYTES: usize = 63;
/// Longest release name, in bytes (a container tag may have 128).
pub const RELEASE_MAX_BYTES: usize = 128;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("the {what} name is empty")]
    Empty { what: &'static str },
    #[error("the {what} name has {bytes} bytes, at most {max} are allowed")]
    TooLong { what: &'static str, bytes: usize, max: usize },
    #[error("the {what} name {shown:?} contains {found:?}; allowed are {allowed}")]
    BadCharacter { what: &'static str, shown: String, found: char, allowed: &'static str },
    #[error("{shown:?} is not a digest; expected sha256: and 64 lower-case hexadecimal digits")]
    BadDigest { shown: String },
}

/// At most this many characters of a bad value are repeated in its error.
const SHOWN_MAX_CHARS: usize = 40;

fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(SHOWN_MAX_CHARS).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    text
}

fn check(
    what: &'static str,
    value: &str,
    max: usize,
    allowed: &'static str,
    ok: fn(char) -> bool,
) -> Result<(), IdError> {
    if value.is_empty() {
        return Err(IdError::Empty { what });
    }
    if value.len() > max {
        return Err(IdError::TooLong { what, bytes: value.len(), max });
    }
    match value.chars().find(|c| !ok(*c)) {
        Some(found) => Err(IdError::BadCharacter { what, shown: shown(value), found, allowed }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $pattern:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// [`IdError`] when the text is empty, too long or has a character outside the allowed set.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check($what, &value, $max, $allowed, $ok)?;
                Ok(Self(value))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "minLength": 1, "maxLength": $max })
            }
        }
    };
}

fn token(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

name!(
    /// An environment, such as `staging`; one token of a subject.
    EnvName, "environment", NAME_MAX_BYTES, "^[A-Za-z0-9_-]+$", "A-Z a-z 0-9 _ -", token
);
name!(
    /// An application, such as `shop`; one token of a subject.
    AppName, "application", NAME_MAX_BYTES, "^[A-Za-z0-9_-]+$", "A-Z a-z 0-9 _ -", token
);
name!(
    /// A Docker host, as its executor's configuration calls it; one token of a subject.
    HostName, "host", NAME_MAX_BYTES, "^[A-Za-z0-9_-]+$", "A-Z a-z 0-9 _ -", token
);
name!(
    /// A service of the compose file. Compose's own rule: letters, digits, dot, underscore and dash.
    ServiceName, "service", NAME_MAX_BYTES, "^[A-Za-z0-9._-]+$", "A-Z a-z 0-9 . _ -", |c| token(c) || c == '.'
);
name!(
    /// What people call a release: `v2`, `sha-1a2b3c`, `main-4f5e6d7`. The characters of a container tag, and `+` for SemVer.
    ReleaseName, "release", RELEASE_MAX_BYTES, "^[A-Za-z0-9._+-]+$", "A-Z a-z 0-9 . _ + -", |c| token(c) || c == '.' || c == '+'
);

/// A content digest, `sha256:` and 64 lower-case hexadecimal digits (OCI image specification, "Digests").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// # Errors
    /// [`IdError::BadDigest`] for anything that is not a SHA-256 digest.
    pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
        let value = value.into();
        let hex = value.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(value))
        } else {
            Err(IdError::BadDigest { shown: shown(&value) })
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(value: &str) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl From<Digest> for String {
    fn from(value: Digest) -> String {
        value.0
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" })
    }
}

/// The number of a promotion within its environment and application: starts at 1, grows by one, stands inside the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Counter(pub u64);

impl Counter {
    pub const NONE: Self = Self(0);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// An event's id: UUIDv7, so ids sort by the time of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;
    fn from_str(value: &str) -> Result<Self, uuid::Error> {
        value.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_bad_value_is_cut() {
        let bad = |chars: usize| "é".repeat(chars);
        assert_eq!(shown(&bad(SHOWN_MAX_CHARS)), bad(SHOWN_MAX_CHARS));
        assert_eq!(shown(&bad(SHOWN_MAX_CHARS + 1)), bad(SHOWN_MAX_CHARS) + "…");
    }
}
