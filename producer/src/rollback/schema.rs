//! Whether the database's schema still serves what a rollback goes back to: the newest release that changed it has the say. The hosts refuse
//! it as well; here it is said before anything is published.

use std::collections::BTreeMap;

use landfall_bus::Bus;
use landfall_schema::compatibility::{Requirement, Served};
use landfall_schema::ids::Counter;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;

use crate::error::{CliError, ExitCode};
use crate::host_keys::{self, Believed, HostKeys};
use crate::reading::Read;
use crate::rollback::target::Past;
use crate::session::Session;

/// The last migration of each promotion that applied one, as its hosts have signed.
pub async fn migrations(
    bus: &Bus,
    past: &[Past],
    keys: &HostKeys,
    cli: &Session,
) -> Result<BTreeMap<Counter, String>, CliError> {
    let Some(Promotion { env, app, .. }) = past.first().map(Past::promotion) else { return Ok(BTreeMap::new()) };
    let said = bus.outcomes_so_far(&subject::outcome_kind_filter(env, app, OutcomeKind::MigrationApplied)).await?;
    let plans = past.iter().filter_map(Past::plan);
    let by_plan = host_keys::by_promotion(bus, plans, keys, &cli.output).await;
    let keys = |outcome: &Outcome| Some(by_plan.get(&outcome.promotion).unwrap_or(keys));
    let believed = Believed::sort(&said, keys, &cli.output);
    let last = |read: &Read<Outcome>| {
        let outcome = &read.event.data;
        let last = outcome.migrations.last()?;
        Some((outcome.counter, format!("{}: {}", last.database, last.description)))
    };
    Ok(believed.proven.iter().filter_map(last).collect())
}

/// # Errors
/// Exit code 6, with the migration and the release that made the schema too new.
pub fn check(past: &[Past], target: &Promotion, migrations: &BTreeMap<Counter, String>) -> Result<(), CliError> {
    let promises = past.iter().map(Past::promotion).filter_map(|promotion| {
        let schema = promotion.schema.as_ref()?;
        Some((promotion, Requirement::new(&schema.compatible_with).ok()?, migrations.get(&promotion.counter)?))
    });
    let Some((by, requirement, migration)) = promises.max_by_key(|(promotion, ..)| promotion.counter) else {
        return Ok(());
    };
    if target.counter >= by.counter || target.release == by.release {
        return Ok(());
    }
    let why = match requirement.serves(&target.release) {
        Served::Yes => return Ok(()),
        Served::No => "it is older",
        Served::CannotTell => "its name is no version, so nobody can tell",
    };
    let serves = by.schema.as_ref().map_or("", |schema| schema.compatible_with.as_str());
    let message = format!(
        "the schema serves releases {serves} only, since migration {migration:?} of {} (promotion {}): {} cannot run on it, {why}",
        by.release, by.counter, target.release
    );
    let hint = format!(
        "promote a fixed release, or go back to one that the schema serves: `landfall history {} --env {}`, then --to RELEASE",
        target.app, target.env
    );
    Err(CliError { exit: ExitCode::Refused, ..CliError::new(message).hint(hint) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use landfall_schema::promotion::SchemaPromise;

    fn past(counter: u64, release: &str, serves: Option<&str>) -> Past {
        let mut event = fixtures::promoted(0, counter, &["host-a"]).event;
        event.data.release = release.parse().expect("a release's name");
        event.data.schema = serves.map(|serves| SchemaPromise { compatible_with: serves.to_owned() });
        Past::new(&event)
    }

    #[test]
    fn a_rollback_past_the_schema_is_refused() {
        let past =
            [past(1, "1.3.0", None), past(2, "1.4.0", None), past(3, "1.5.0", Some(">= 1.4")), past(4, "1.5.1", None)];
        let migrated = BTreeMap::from([(Counter(3), "shop: 3 drop legacy".to_owned())]);
        for (target, refused) in [(0, true), (1, false), (2, false), (3, false)] {
            let found = check(&past, past[target].promotion(), &migrated);
            assert_eq!(found.is_err(), refused, "{target}: {found:?}");
        }
        let Err(error) = check(&past, past[0].promotion(), &migrated) else { panic!("it was not refused") };
        assert_eq!(error.exit, ExitCode::Refused);
        for part in ["3 drop legacy", "1.5.0", "1.3.0"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        // Nothing was migrated with it, so nothing was taken away.
        assert!(check(&past, past[0].promotion(), &BTreeMap::new()).is_ok());
    }
}
