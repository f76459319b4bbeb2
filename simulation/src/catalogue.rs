//! What each release is really worth. Landfall is never told.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use landfall_schema::ids::Digest;

use crate::database::Migration;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Quality {
    #[default]
    Good,
    CannotBePulled,
    NeverBecomesReady,
    FailsItsSmokeTest,
    DiesWhileBaking,
    /// Its smoke test passes everywhere else.
    FailsOnTheLastHost,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) quality: Quality,
    /// All that its code needs, oldest first.
    pub(crate) migrations: Vec<Migration>,
}

#[derive(Debug, Default)]
pub(crate) struct Catalogue(Mutex<BTreeMap<Digest, Facts>>);

impl Catalogue {
    pub(crate) fn add(&self, digest: Digest, facts: Facts) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, facts);
    }

    pub(crate) fn of(&self, digest: &Digest) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned().unwrap_or_default()
    }

    pub(crate) fn quality(&self, digest: &Digest) -> Quality {
        self.of(digest).quality
    }
}
