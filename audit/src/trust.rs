//! What a signature is worth. The ledger stores every event; the verdict beside it says whether somebody who is trusted had signed it.

use std::fmt;
use std::str::FromStr;

use landfall_schema::ids::{HostName, IdError};
use landfall_schema::signature::{self, PublicKey, SignatureError};
use thiserror::Error;

/// Keys that are trusted, each for what it may sign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(pub Vec<TrustedKey>);

/// `KEY`, `promote=KEY`, `admin=KEY`, `host=KEY` or `host:NAME=KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    pub role: Role,
    pub key: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Any,
    Promote,
    Admin,
    AnyHost,
    Host(HostName),
}

#[derive(Debug, Error)]
pub enum TrustError {
    #[error("{role:?} is no role; there are promote, admin, host and host:NAME")]
    Role { role: String },
    #[error("{0}")]
    Host(#[from] IdError),
    #[error("{0}")]
    Key(#[from] SignatureError),
}

impl FromStr for TrustedKey {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let (role, key) = match text.split_once('=') {
            None => (Role::Any, text),
            Some(("promote", key)) => (Role::Promote, key),
            Some(("admin", key)) => (Role::Admin, key),
            Some(("host", key)) => (Role::AnyHost, key),
            Some((role, key)) => match role.strip_prefix("host:") {
                Some(host) => (Role::Host(host.parse()?), key),
                None => return Err(TrustError::Role { role: role.chars().take(ROLE_SHOWN_MAX_CHARS).collect() }),
            },
        };
        Ok(Self { role, key: PublicKey::new(key)? })
    }
}

/// A wrong role may be a misplaced secret; a short beginning is enough to find it.
const ROLE_SHOWN_MAX_CHARS: usize = 20;

/// What an event's signature was worth when the event was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No key was trusted for this kind of event, so nothing was verified.
    Unchecked,
    Trusted,
    Unsigned,
    /// Signed, but by nobody who is trusted for it.
    Untrusted,
    /// A trusted key's signature does not match the bytes: they were changed.
    Mismatch,
    /// The signature header could not be read.
    Malformed,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Trusted => "trusted",
            Self::Unsigned => "unsigned",
            Self::Untrusted => "untrusted",
            Self::Mismatch => "mismatch",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A verdict, and who signed when somebody trusted did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub signer: Option<PublicKey>,
}

impl Trust {
    pub fn of_promotion(&self, body: &[u8], header: Option<&str>) -> Judgement {
        self.judge(body, header, |role| matches!(role, Role::Any | Role::Promote))
    }

    /// Of what people say beside promotions: approvals, halts, freezes, policies.
    pub fn of_word(&self, body: &[u8], header: Option<&str>) -> Judgement {
        self.judge(body, header, |role| matches!(role, Role::Any | Role::Promote | Role::Admin))
    }

    pub fn of_outcome(&self, host: &HostName, body: &[u8], header: Option<&str>) -> Judgement {
        self.judge(body, header, |role| match role {
            Role::Any | Role::AnyHost => true,
            Role::Host(name) => name == host,
            Role::Promote | Role::Admin => false,
        })
    }

    fn judge(&self, body: &[u8], header: Option<&str>, may: impl Fn(&Role) -> bool) -> Judgement {
        if self.0.is_empty() {
            return Judgement { verdict: Verdict::Unchecked, signer: None };
        }
        let keys: Vec<PublicKey> =
            self.0.iter().filter(|trusted| may(&trusted.role)).map(|trusted| trusted.key.clone()).collect();
        let verdict = match signature::verify(body, header, &keys) {
            Ok(signer) => return Judgement { verdict: Verdict::Trusted, signer: Some(signer) },
            Err(SignatureError::Unsigned) => Verdict::Unsigned,
            Err(SignatureError::Untrusted { .. }) => Verdict::Untrusted,
            Err(SignatureError::Mismatch { .. }) => Verdict::Mismatch,
            Err(SignatureError::Malformed(_) | SignatureError::BadKey(_)) => Verdict::Malformed,
        };
        Judgement { verdict, signer: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::signature::SigningKey;

    use super::*;

    #[test]
    fn a_key_counts_for_its_role_only() {
        let (ci, host, stranger) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
        let trust: Vec<TrustedKey> = [format!("promote={}", ci.public()), format!("host:host-a={}", host.public())]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let trust = Trust(trust);
        let (a, b) = ("host-a".parse().unwrap(), "host-b".parse().unwrap());
        let body = b"{}";
        let by = |key: &SigningKey| Some(key.header(body).unwrap());

        let promotion = |header: Option<String>| trust.of_promotion(body, header.as_deref()).verdict;
        assert_eq!(promotion(by(&ci)), Verdict::Trusted);
        assert_eq!(promotion(by(&host)), Verdict::Untrusted);
        assert_eq!(promotion(None), Verdict::Unsigned);
        assert_eq!(promotion(Some("[".to_owned())), Verdict::Malformed);
        assert_eq!(promotion(Some(ci.header(b"other").unwrap())), Verdict::Mismatch);

        let outcome = |host, header: Option<String>| trust.of_outcome(host, body, header.as_deref()).verdict;
        assert_eq!(outcome(&a, by(&host)), Verdict::Trusted);
        assert_eq!(outcome(&b, by(&host)), Verdict::Untrusted);
        assert_eq!(outcome(&a, by(&ci)), Verdict::Untrusted);
        assert_eq!(outcome(&a, by(&stranger)), Verdict::Untrusted);
        assert_eq!(Trust::default().of_promotion(body, None).verdict, Verdict::Unchecked);
    }

    #[test]
    fn what_is_no_key_is_said_without_repeating_a_secret() {
        let seed = SigningKey::generate().seed().unwrap();
        for text in ["", "U", "deploy=UABC", "host:a b=U", &seed, &format!("promote={seed}")] {
            let error = text.parse::<TrustedKey>().unwrap_err().to_string();
            assert!(!error.contains(&seed[2..20]), "{error}");
        }
    }

    #[test]
    fn what_is_shown_of_a_role_is_cut() {
        for past in [0, 1] {
            let text = format!("{}=U", "é".repeat(ROLE_SHOWN_MAX_CHARS + past));
            let error = text.parse::<TrustedKey>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{:?} is no role", "é".repeat(ROLE_SHOWN_MAX_CHARS))), "{error}");
        }
    }
}
