//! What this host's database still serves: the promise of the newest release that changed its schema. A rollback restores images and never
//! the schema, so a release outside of the promise is refused before anything is touched.

use std::path::PathBuf;

use landfall_deploy::Order;
use landfall_schema::compatibility::{Requirement, Served};
use landfall_schema::ids::{Counter, ReleaseName};
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::promotion::{Intent, Promotion};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Context, Hands, internal};

const FILE: &str = "schema.json";

/// The promise, and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    counter: Counter,
    release: ReleaseName,
    compatible_with: String,
    /// The last migration that came with it, e.g. `shop: 3 drop legacy`.
    migration: String,
}

impl Hands {
    fn promise_file(&self) -> PathBuf {
        self.config.state_dir.join("stacks").join(self.engine.project()).join(FILE)
    }

    /// Remembered as soon as the schema has changed: it stays so, whatever becomes of the release. A newer promise is kept: the schema is the
    /// newer release's.
    pub(crate) async fn remember_promise(&self, order: &Order, made: &[AppliedMigration]) -> Result<(), Reason> {
        let promotion = &order.promotion;
        let (Some(schema), Some(last)) = (&promotion.schema, made.last()) else { return Ok(()) };
        if self.promise().await?.is_some_and(|newest| newest.counter > promotion.counter) {
            return Ok(());
        }
        let promise = Promise {
            counter: promotion.counter,
            release: promotion.release.clone(),
            compatible_with: schema.compatible_with.clone(),
            migration: format!("{}: {}", last.database, last.description),
        };
        let bytes = serde_json::to_vec(&promise).map_err(|error| internal("writing what the schema serves", error))?;
        self.keep(&self.promise_file(), &bytes).await
    }

    /// # Errors
    /// [`ReasonCode::SchemaTooNew`]; [`ReasonCode::SettingsInvalid`] for a promise of its own that nobody could keep.
    pub(crate) async fn check_promise(&self, promotion: &Promotion) -> Result<(), Reason> {
        check_own(promotion)?;
        self.promise().await?.map_or(Ok(()), |promise| judge(&promise, promotion))
    }

    async fn promise(&self) -> Result<Option<Promise>, Reason> {
        let path = self.promise_file();
        let bytes = match tokio::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(internal("reading what the schema serves", error)),
        };
        let promise = serde_json::from_slice::<Promise>(&bytes);
        Ok(promise
            .inspect_err(|error| {
                warn!(path = %path.display(), %error, "what the schema serves is not readable; nothing is refused because of it");
            })
            .ok())
    }

    /// What has to be said before a release begins that its former one could not follow again.
    pub(crate) fn way_back(&self, order: &Order, context: &Context) -> Option<String> {
        let schema = order.promotion.schema.as_ref()?;
        let former = &context.former.as_ref()?.release;
        let requirement = Requirement::new(&schema.compatible_with).ok()?;
        (*former != order.promotion.release && requirement.serves(former) == Served::No).then(|| {
            format!(
                "the schema of {} serves {} and not {former}: if it fails, {former} comes back to a schema that it does not know",
                order.promotion.release, schema.compatible_with
            )
        })
    }
}

/// What cannot be read would refuse nothing later.
fn check_own(promotion: &Promotion) -> Result<(), Reason> {
    let Some(schema) = &promotion.schema else { return Ok(()) };
    Requirement::new(&schema.compatible_with).map(drop).map_err(|error| {
        Reason::new(ReasonCode::SettingsInvalid, format!("schema.compatible_with of the promotion: {error}"))
            .hint("for example `schema: {compatible_with: \">= 1.4\"}` in x-landfall; correct it and promote again")
    })
}

fn judge(promise: &Promise, promotion: &Promotion) -> Result<(), Reason> {
    let Ok(requirement) = Requirement::new(&promise.compatible_with) else { return Ok(()) };
    let is_back = match promotion.intent {
        // What was promoted after the promise was made for this schema.
        Intent::Rollback { to } if to >= promise.counter => return Ok(()),
        Intent::Rollback { .. } => true,
        Intent::Promote => false,
        Intent::Remove => return Ok(()),
    };
    if promotion.release == promise.release {
        return Ok(());
    }
    let why = match requirement.serves(&promotion.release) {
        Served::Yes => return Ok(()),
        // A new release may be called anything.
        Served::CannotTell if !is_back => return Ok(()),
        Served::CannotTell => "its name is no version, so nobody can tell",
        Served::No => "it is older",
    };
    let message = format!(
        "the database's schema serves releases {} only, since migration {:?} of {} (promotion {}): {} cannot run on it, {why}",
        promise.compatible_with, promise.migration, promise.release, promise.counter, promotion.release
    );
    let Promotion { env, app, .. } = promotion;
    Err(Reason::new(ReasonCode::SchemaTooNew, message).hint(format!(
        "go forward with a fixed release, or back to one that the schema serves: `landfall history {app} --env {env}`, then `landfall rollback {app} --env {env} --to RELEASE`"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use landfall_schema::promotion::SchemaPromise;

    fn check(intent: Intent, release: &str) -> Option<String> {
        let promise = Promise {
            counter: Counter(5),
            release: "1.6.0".parse().unwrap(),
            compatible_with: ">= 1.4".to_owned(),
            migration: "shop: 3 drop legacy".to_owned(),
        };
        let mut promotion = crate::samples::promotion(6);
        (promotion.intent, promotion.release) = (intent, release.parse().unwrap());
        judge(&promise, &promotion).err().map(|reason| reason.message)
    }

    #[test]
    fn a_promise_that_cannot_be_read_is_refused() {
        let mut promotion = crate::samples::promotion(6);
        check_own(&promotion).unwrap();
        for (serves, is_good) in [(">= 1.4", true), ("newer", false), ("", false)] {
            promotion.schema = Some(SchemaPromise { compatible_with: serves.to_owned() });
            assert_eq!(check_own(&promotion).is_ok(), is_good, "{serves:?}");
        }
    }

    #[test]
    fn only_what_the_schema_serves_may_run() {
        let back = |to| Intent::Rollback { to: Counter(to) };
        for (intent, release, refused) in [
            (Intent::Promote, "1.7.0", false),
            (Intent::Promote, "sha-1a2b", false),
            (Intent::Promote, "1.3.9", true),
            (Intent::Promote, "1.6.0", false),
            (back(4), "1.4.2", false),
            (back(4), "1.3.9", true),
            (back(4), "sha-1a2b", true),
            (back(5), "1.6.0", false),
            (back(6), "0.1.0", false),
            (Intent::Remove, "0.1.0", false),
        ] {
            let found = check(intent.clone(), release);
            assert_eq!(found.is_some(), refused, "{intent:?} {release}: {found:?}");
        }
        let message = check(back(4), "1.3.9").unwrap();
        for part in [">= 1.4", "3 drop legacy", "1.6.0", "#5", "1.3.9"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}
