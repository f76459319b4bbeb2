//! Every operation on the bus that can fail, by name.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use landfall_schema::event::EventError;
use landfall_schema::ids::Digest;
use landfall_schema::layout::BUNDLE_MAX_BYTES;
use landfall_schema::signature::SignatureError;
use thiserror::Error;

/// Why the client or the server did not do it. A server that denies a request does not answer it: the reason comes as a separate
/// complaint, which is kept here beside the time-out.
#[derive(Debug)]
pub struct Cause {
    source: Box<dyn Error + Send + Sync>,
    complaint: Option<String>,
}

impl Cause {
    pub(crate) fn new(source: impl Into<Box<dyn Error + Send + Sync>>, complaint: Option<String>) -> Self {
        Self { source: source.into(), complaint }
    }

    fn says(&self, words: &[&str]) -> bool {
        let text = self.to_string().to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    }

    fn hint(&self) -> Option<&'static str> {
        if self.says(&["permissions violation"]) {
            Some("these NATS credentials may not do that; ask for the permissions of this role")
        } else if self.says(&["stream not found", "no stream found"]) {
            Some("the bus is not set up yet; run `landfall bus apply`")
        } else if self.says(&["no responders", "jetstream not enabled"]) {
            Some(
                "JetStream does not answer; start the NATS server with `-js`, and check that this account may use JetStream",
            )
        } else if self.says(&["timed out", "deadline has elapsed"]) {
            Some("the NATS server did not answer in time; `landfall doctor` tells more")
        } else {
            None
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut below = self.source.source();
        while let Some(error) = below {
            write!(f, ": {error}")?;
            below = error.source();
        }
        match &self.complaint {
            Some(complaint) => write!(f, " (the server said: {complaint})"),
            None => Ok(()),
        }
    }
}

impl Error for Cause {}

#[derive(Debug, Error)]
pub enum BusError {
    #[cfg(feature = "simulation")]
    #[error("the simulated server is away")]
    Simulated,
    #[error("{url:?} is not the address of a NATS server")]
    Address { url: String, source: std::io::Error },
    #[error("cannot read the NATS credentials {}", path.display())]
    Credentials { path: PathBuf, source: std::io::Error },
    #[error("cannot connect to NATS at {url}")]
    Connect { url: String, source: async_nats::ConnectError },
    #[error("cannot look at {what}")]
    Inspect { what: String, source: Cause },
    #[error("cannot create {what}")]
    Create { what: String, source: Cause },
    #[error("cannot change {what}")]
    Change { what: String, source: Cause },
    #[error("the server keeps {what} differently from what was asked: {differences}")]
    Differs { what: String, differences: String },
    #[error("cannot store the bundle {digest}")]
    StoreBundle { digest: Digest, source: Cause },
    #[error("cannot fetch the bundle {digest}")]
    FetchBundle { digest: Digest, source: Cause },
    #[error("the bus holds no bundle {digest}")]
    BundleMissing { digest: Digest },
    #[error("the bundle {digest} has {bytes} bytes, at most {BUNDLE_MAX_BYTES} are allowed")]
    BundleOversized { digest: Digest, bytes: u64 },
    #[error("cannot write the event")]
    Encode(#[from] EventError),
    #[error("cannot sign the event")]
    Sign(#[from] SignatureError),
    #[error("cannot publish to {subject}")]
    Publish { subject: String, source: Cause },
    #[error("another message on {subject} was first")]
    Raced { subject: String },
    #[error("cannot read the newest message of {subject}")]
    ReadLatest { subject: String, source: Cause },
    #[error("cannot read the messages of {filter}")]
    ReadHistory { filter: String, source: Cause },
    #[error("cannot follow {filter}")]
    Follow { filter: String, source: Cause },
    #[error("cannot listen on {subject}")]
    Hear { subject: String, source: Cause },
    #[error("cannot set up the consumer {name}")]
    Consumer { name: String, source: Cause },
    #[error("cannot read the register {filter}")]
    Sweep { filter: String, source: Cause },
}

impl BusError {
    /// What a person can do next.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Address { .. } => "an address looks like nats://nats.example.net:4222",
            Self::Credentials { .. } => "check --creds, NATS_CREDS or the context's `creds`",
            Self::Connect { source, .. } => return Some(connect_hint(source)),
            Self::Differs { .. } => {
                "the NATS server is too old or limits this account; Landfall needs nats-server 2.10 or newer"
            }
            Self::BundleMissing { .. } => "it was removed from the bus; promote the release again",
            Self::BundleOversized { .. } => "compose files are meant to be small: move data out of them",
            Self::Raced { .. } => "look at `landfall status`, then promote again if yours should win",
            Self::Encode(_) | Self::Sign(_) => return None,
            #[cfg(feature = "simulation")]
            Self::Simulated => return None,
            Self::Create { source, .. } | Self::Change { source, .. } => source
                .hint()
                .unwrap_or("the server refused it; what differs must be changed by hand, nothing was deleted"),
            Self::Inspect { source, .. }
            | Self::StoreBundle { source, .. }
            | Self::FetchBundle { source, .. }
            | Self::Publish { source, .. }
            | Self::ReadLatest { source, .. }
            | Self::ReadHistory { source, .. }
            | Self::Follow { source, .. }
            | Self::Hear { source, .. }
            | Self::Consumer { source, .. }
            | Self::Sweep { source, .. } => return source.hint().map(str::to_owned),
        };
        Some(text.to_owned())
    }
}

fn connect_hint(error: &async_nats::ConnectError) -> String {
    use async_nats::ConnectErrorKind as Kind;
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => {
            "the server refused these credentials; check --creds, NATS_CREDS or the context"
        }
        Kind::Tls => "the server's certificate was not accepted; check the `ca` of the context",
        Kind::ServerParse | Kind::Dns => "check the address in --server, NATS_URL or the context",
        Kind::TimedOut | Kind::Io | Kind::MaxReconnects => {
            "is the server running and reachable from here? Check --server, NATS_URL or the context"
        }
    }
    .to_owned()
}
