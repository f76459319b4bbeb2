//! Each oracle says no to what it is there for.

use anyhow::Result;
use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, Digest, EnvName, EventId, ReleaseName, ServiceName};
use landfall_schema::outcome::{AppliedMigration, Outcome};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};
use landfall_tests::outcomes::Published;
use landfall_tests::promotion::Draft;
use landfall_tests::stack::Stack;
use uuid::Uuid;

use super::*;
use crate::record::{Ordered, Record};
use crate::release::Offer;

const APP: &str = "app";

/// Two hosts, and as many promotions as a test orders.
struct Told {
    record: Record,
    promotions: Vec<Promotion>,
}

impl Told {
    fn new(promotions: u64) -> Result<Self> {
        let record = Record::default();
        let (env, app) = (EnvName::new("test")?, AppName::new("shop")?);
        let hosts = || Ok::<_, anyhow::Error>(vec![HostName::new("h1")?, HostName::new("h2")?]);
        let mut made = Vec::new();
        for counter in 1..=promotions {
            let promotion = Draft::of(&Stack::raw("", &[]), &env, &app, hosts()?, counter)?.event.data;
            let ordered = Ordered {
                id: EventId(Uuid::now_v7()),
                offer: Offer::Good,
                hosts: hosts()?,
                is_coordinated: true,
                images: [(ServiceName::new(APP)?, image(counter))].into(),
                migrations: vec![1, 2],
            };
            record.lock().ordered.insert(counter, ordered);
            made.push(promotion);
        }
        Ok(Self { record, promotions: made })
    }

    fn hears(&self, host: &str, counter: u64, kind: OutcomeKind, change: impl FnOnce(&mut Outcome)) -> Result<()> {
        let promotion = &self.promotions[counter as usize - 1];
        let id = self.record.lock().ordered[&counter].id;
        let mut data = Outcome::new(kind, &HostName::new(host)?, promotion, id);
        change(&mut data);
        let message = Delivered {
            subject: String::new(),
            sequence: 0,
            body: Default::default(),
            signature: None,
            traceparent: None,
            published_at: Timestamp::UNIX_EPOCH,
        };
        let published = Published { id: EventId(Uuid::now_v7()), event_type: kind.event_type(), data, message };
        self.record.lock().hear(published);
        Ok(())
    }

    fn says(&self, host: &str, counter: u64, kinds: &[OutcomeKind]) -> Result<()> {
        kinds.iter().try_for_each(|kind| self.hears(host, counter, *kind, |_| {}))
    }

    fn word(&self, counter: u64, word: RolloutWord) -> Result<()> {
        let promotion = &self.promotions[counter as usize - 1];
        let state = RolloutState {
            env: promotion.env.clone(),
            app: promotion.app.clone(),
            counter: promotion.counter,
            promotion: self.record.lock().ordered[&counter].id,
            phase: RolloutPhase::Ended { word },
            wave: 0,
            admitted: 2,
            cause: None,
            not_reached: Default::default(),
            differing: Default::default(),
            decided_by: HostName::new("h1")?,
        };
        self.hears("h1", counter, word.outcome_kind(), |outcome| outcome.rollout = Some(state))
    }

    /// Both hosts take it, and it succeeds.
    fn succeeds(&self, counter: u64) -> Result<()> {
        for host in ["h1", "h2"] {
            let kinds = [OutcomeKind::StackUpdating, OutcomeKind::ReleaseCommitted, OutcomeKind::DeploySucceeded];
            self.says(host, counter, &kinds)?;
        }
        self.word(counter, RolloutWord::Succeeded)
    }
}

fn image(counter: u64) -> Digest {
    Digest::of(&counter.to_be_bytes())
}

fn violations(found: Finding) -> usize {
    assert!(found.checked > 0, "nothing was checked");
    found.violations.len()
}

#[test]
fn a_good_run_pleases_every_oracle() -> Result<()> {
    let told = Told::new(2)?;
    told.succeeds(1)?;
    told.succeeds(2)?;
    let inner = told.record.lock();
    let all = [
        ended_once(&inner),
        one_word(&inner),
        words_are_true(&inner),
        goes_forward(&inner),
        migrations(&inner, &[1, 2], &[], &[2]),
    ];
    all.into_iter().for_each(|found| assert_eq!(violations(found), 0));
    assert!(under_way(&inner).is_empty());
    Ok(())
}

#[test]
fn a_lost_release_and_one_that_ends_twice_are_found() -> Result<()> {
    let told = Told::new(2)?;
    told.says("h1", 1, &[OutcomeKind::ReleaseAccepted])?;
    told.succeeds(2)?;
    // h1 has begun the first and never ended it; h2 never heard of it, and has done the second.
    assert_eq!(violations(ended_once(&told.record.lock())), 1);
    told.says("h1", 1, &[OutcomeKind::DeploySuperseded, OutcomeKind::DeployFailed])?;
    assert_eq!(violations(ended_once(&told.record.lock())), 1);
    // Its rollout has no last word, although a host took it.
    assert_eq!(violations(one_word(&told.record.lock())), 1);
    told.word(1, RolloutWord::Aborted)?;
    assert_eq!(violations(one_word(&told.record.lock())), 0);
    told.word(1, RolloutWord::Aborted)?;
    assert_eq!(violations(one_word(&told.record.lock())), 1);
    Ok(())
}

#[test]
fn words_that_are_not_true_are_found() -> Result<()> {
    let told = Told::new(2)?;
    told.says("h1", 1, &[OutcomeKind::DeploySucceeded])?;
    told.says("h2", 1, &[OutcomeKind::DeployRolledBack])?;
    told.word(1, RolloutWord::Succeeded)?;
    assert_eq!(violations(words_are_true(&told.record.lock())), 1);
    told.says("h1", 2, &[OutcomeKind::DeploySucceeded])?;
    told.says("h2", 2, &[OutcomeKind::DeployStuck])?;
    told.word(2, RolloutWord::RolledBack)?;
    assert_eq!(violations(words_are_true(&told.record.lock())), 3);
    Ok(())
}

#[test]
fn a_host_that_goes_back_is_found() -> Result<()> {
    let told = Told::new(2)?;
    told.succeeds(1)?;
    told.succeeds(2)?;
    let (host, app) = (HostName::new("h1")?, ServiceName::new(APP)?);
    told.record.saw(&host, &[(app.clone(), image(2))].into(), Timestamp::now());
    told.record.saw(&host, &[(app.clone(), image(1))].into(), Timestamp::now());
    assert_eq!(violations(goes_forward(&told.record.lock())), 1);
    // When it says so, it may; to what it had served.
    told.hears("h1", 2, OutcomeKind::DeployRolledBack, |outcome| outcome.former = ReleaseName::new("r1").ok())?;
    assert_eq!(violations(goes_forward(&told.record.lock())), 0);
    assert_eq!(told.record.lock().serving(&host), Some(1));
    told.says("h1", 2, &[OutcomeKind::ReleaseCommitted])?;
    told.hears("h1", 2, OutcomeKind::DeployRolledBack, |outcome| outcome.former = ReleaseName::new("r7").ok())?;
    assert_eq!(violations(goes_forward(&told.record.lock())), 1);
    Ok(())
}

/// The engine is looked at now and then: what it left a moment ago may be promised once more by a promotion that has begun since.
#[test]
fn what_was_promised_again_after_the_last_look_is_no_step_back() -> Result<()> {
    let told = Told::new(3)?;
    let (host, app) = (HostName::new("h1")?, ServiceName::new(APP)?);
    let same = told.record.lock().ordered[&2].images.clone();
    told.record.lock().ordered.entry(3).and_modify(|third| third.images = same);
    told.succeeds(1)?;
    told.says("h1", 2, &[OutcomeKind::StackUpdating])?;
    told.record.saw(&host, &[(app.clone(), image(2))].into(), Timestamp::now());
    told.hears("h1", 2, OutcomeKind::DeployRolledBack, |outcome| outcome.former = ReleaseName::new("r1").ok())?;
    let begun = (host.clone(), 3, Timestamp::now());
    told.record.lock().updating.push(begun);
    told.record.saw(&host, &[(app.clone(), image(1))].into(), Timestamp::now());
    assert_eq!(violations(goes_forward(&told.record.lock())), 0);
    Ok(())
}

#[test]
fn an_older_commit_after_a_newer_one_is_found() -> Result<()> {
    let told = Told::new(2)?;
    told.succeeds(2)?;
    told.says("h2", 1, &[OutcomeKind::ReleaseCommitted])?;
    assert_eq!(violations(goes_forward(&told.record.lock())), 1);
    Ok(())
}

#[test]
fn migrations_that_are_there_twice_or_not_at_all_are_found() -> Result<()> {
    let told = Told::new(1)?;
    told.succeeds(1)?;
    let inner = told.record.lock();
    let twice = violations(migrations(&inner, &[1, 2], &[], &[2, 2]));
    let without_effect = violations(migrations(&inner, &[1, 2], &[], &[]));
    let unrecorded = violations(migrations(&inner, &[1, 2], &[], &[2, 3]));
    let half = violations(migrations(&inner, &[1, 2], &["3".to_owned()], &[2]));
    assert_eq!([twice, without_effect, unrecorded, half], [1, 1, 1, 1]);
    // Both hosts serve what needs migration 2.
    assert_eq!(violations(migrations(&inner, &[1], &[], &[])), 2);
    Ok(())
}

#[test]
fn a_migration_that_is_told_twice_is_found() -> Result<()> {
    let told = Told::new(1)?;
    let migrated = |outcome: &mut Outcome| {
        let (database, description) = ("soak".to_owned(), "2 step".to_owned());
        outcome.migrations = vec![AppliedMigration { database, description, duration_ms: 1 }];
    };
    told.hears("h1", 1, OutcomeKind::MigrationApplied, migrated)?;
    assert_eq!(violations(told_once(&told.record.lock())), 0);
    told.hears("h2", 1, OutcomeKind::MigrationApplied, migrated)?;
    assert_eq!(violations(told_once(&told.record.lock())), 1);
    Ok(())
}

#[test]
fn a_ledger_that_lacks_or_invents_or_doubts_is_found() {
    let stream = ["a", "b"].map(str::to_owned).into();
    let of = |rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(id, verdict)| ((*id).to_owned(), (*verdict).to_owned())).collect();
        violations(ledger(&stream, &rows))
    };
    assert_eq!(of(&[("a", "trusted"), ("b", "trusted")]), 0);
    assert_eq!(of(&[("a", "trusted")]), 1);
    assert_eq!(of(&[("a", "trusted"), ("b", "mismatch")]), 1);
    assert_eq!(of(&[("a", "trusted"), ("b", "trusted"), ("c", "trusted")]), 1);
}
