#![allow(clippy::unwrap_used)]
use landfall_deploy::{Effect, Evidence};
use landfall_schema::ids::Counter;
use tempfile::TempDir;

use super::*;
use crate::samples;

async fn journal() -> (TempDir, Journal) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).await.unwrap();
    (folder, journal)
}

fn env() -> EnvName {
    "staging".parse().unwrap()
}

fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn ended(counter: u64, settles: Option<&Taken>) -> Announcement {
    let reason = landfall_schema::outcome::Reason::new(ReasonCode::Superseded, "why");
    let order = samples::order(counter);
    let made = samples::announcer().ended(&order, OutcomeKind::DeploySuperseded, reason, samples::now(), None).unwrap();
    Announcement { settles: settles.map(|taken| taken.message.clone()), ..made }
}

#[tokio::test]
async fn a_deploy_is_remembered_across_restarts() {
    let (folder, journal) = journal().await;
    let taken = samples::taken(5);
    journal.take(&taken, samples::now()).await.unwrap();
    let inputs = [Input::Begin, Input::Finished { effect: Effect::Bake, evidence: Evidence::Baked }];
    for input in &inputs {
        let step = Step { order: &taken.order, at: samples::now(), input, announcements: &[], terminal: None };
        journal.record(step).await.unwrap();
    }
    journal.set_deploy_traceparent(&taken.order, "00-1-2-01").await.unwrap();
    journal.close().await;

    let journal = Journal::open(folder.path()).await.unwrap();
    let unfinished = journal.unfinished(&taken.order.host).await.unwrap();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(unfinished[0].taken, taken);
    assert_eq!(unfinished[0].deploy_traceparent.as_deref(), Some("00-1-2-01"));
    assert_eq!(unfinished[0].entries, inputs.map(|input| (samples::now(), input)));
    assert_eq!(
        journal.standing(&env(), &shop()).await.unwrap(),
        Some(Standing { counter: Counter(5), id: taken.order.id })
    );
    assert_eq!(journal.standing(&env(), &"blog".parse().unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn a_message_is_told_once_its_outcome_is_published() {
    let (_folder, journal) = journal().await;
    let taken = samples::taken(5);
    assert_eq!(journal.handled(&taken.message).await.unwrap(), None);
    journal.take(&taken, samples::now()).await.unwrap();
    assert_eq!(journal.handled(&taken.message).await.unwrap(), Some(Handled::UnderWay));
    let announcement = ended(5, Some(&taken));
    journal
        .end(&taken.order, OutcomeKind::DeploySuperseded, std::slice::from_ref(&announcement), samples::now())
        .await
        .unwrap();
    assert_eq!(journal.handled(&taken.message).await.unwrap(), Some(Handled::UnderWay));

    let waiting = journal.unpublished(0, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|waiting| &waiting.announcement).collect::<Vec<_>>(), [&announcement]);
    journal.mark_published(waiting[0].position, &[], samples::now()).await.unwrap();
    assert_eq!(journal.handled(&taken.message).await.unwrap(), Some(Handled::Told));
    assert!(journal.unpublished(0, 10).await.unwrap().is_empty());
    assert!(journal.unfinished(&taken.order.host).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_remembered() {
    let (_folder, journal) = journal().await;
    let taken = samples::taken(5);
    let announcements = [ended(5, None), ended(5, Some(&taken))];
    for _ in 0..2 {
        // The second time nothing is said again only because the daemon looks first; the row itself is not doubled.
        let first = journal.handled(&taken.message).await.unwrap().is_none();
        let said = if first { &announcements[..] } else { &[] };
        journal.refuse(&taken.message, ReasonCode::Unsigned, said, samples::now()).await.unwrap();
    }
    assert_eq!(journal.unpublished(0, 10).await.unwrap().len(), 2);
    assert_eq!(journal.handled(&taken.message).await.unwrap(), Some(Handled::UnderWay));
    assert_eq!(journal.standing(&env(), &shop()).await.unwrap(), None, "what was not believed does not count");
}

#[tokio::test]
async fn what_was_passed_by_may_be_taken_again_and_what_failed_may_not() {
    let (_folder, journal) = journal().await;
    let (passed_by, failed) = (samples::taken(5), samples::taken(6));
    for taken in [&passed_by, &failed] {
        assert!(journal.may_catch_up(&taken.message).await.unwrap(), "it never came");
        journal.take(taken, samples::now()).await.unwrap();
        assert!(!journal.may_catch_up(&taken.message).await.unwrap(), "it is under way");
        assert!(journal.has_taken(taken.order.id).await.unwrap());
    }
    assert!(journal.is_under_way(&env(), &shop()).await.unwrap());
    let step = Step {
        order: &passed_by.order,
        at: samples::now(),
        input: &Input::Begin,
        announcements: &[],
        terminal: Some(OutcomeKind::DeploySuperseded),
    };
    journal.record(step).await.unwrap();
    journal.end(&failed.order, OutcomeKind::DeployFailed, &[], samples::now()).await.unwrap();
    assert!(!journal.is_under_way(&env(), &shop()).await.unwrap());
    assert!(journal.may_catch_up(&passed_by.message).await.unwrap());
    assert!(!journal.may_catch_up(&failed.message).await.unwrap());

    journal.take(&failed, samples::now()).await.unwrap_err();
    journal.take(&passed_by, samples::now()).await.unwrap();
    let unfinished = journal.unfinished(&passed_by.order.host).await.unwrap();
    assert_eq!(unfinished.len(), 1);
    assert!(unfinished[0].entries.is_empty(), "it begins anew");

    let stale = samples::taken(4);
    journal.refuse(&stale.message, ReasonCode::StaleCounter, &[], samples::now()).await.unwrap();
    assert!(journal.may_catch_up(&stale.message).await.unwrap());
    let unwanted = samples::taken(3);
    journal.refuse(&unwanted.message, ReasonCode::PolicyViolation, &[], samples::now()).await.unwrap();
    assert!(!journal.may_catch_up(&unwanted.message).await.unwrap());
}

/// What was committed after a deploy that is stuck serves, also while its own rollout has not ended.
#[tokio::test]
async fn what_serves_is_known_until_something_newer_is_stuck() {
    let (_folder, journal) = journal().await;
    let taken = [4, 5, 6].map(samples::taken);
    let serves = async || journal.serving(&env(), &shop()).await.unwrap().map(|serving| serving.committed.counter.0);
    for (taken, terminal, expect) in [
        (&taken[0], Some(OutcomeKind::DeployStuck), None),
        (&taken[1], None, Some(5)),
        (&taken[2], Some(OutcomeKind::DeployStuck), None),
    ] {
        journal.take(taken, samples::now()).await.unwrap();
        match terminal {
            Some(kind) => journal.end(&taken.order, kind, &[], samples::now()).await.unwrap(),
            None => journal.commit(&taken.order, &samples::bundle(), samples::now()).await.unwrap(),
        }
        assert_eq!(serves().await, expect);
    }
}

#[tokio::test]
async fn one_promotion_is_taken_once() {
    let (_folder, journal) = journal().await;
    journal.take(&samples::taken(5), samples::now()).await.unwrap();
    journal.take(&samples::taken(5), samples::now()).await.unwrap_err();
}

#[tokio::test]
async fn a_step_is_written_whole_or_not_at_all() {
    let (_folder, journal) = journal().await;
    let taken = samples::taken(5);
    journal.take(&taken, samples::now()).await.unwrap();
    let twice = ended(5, None);
    let announcements = [twice.clone(), twice];
    let step = Step {
        order: &taken.order,
        at: samples::now(),
        input: &Input::Begin,
        announcements: &announcements,
        terminal: None,
    };
    journal.record(step).await.unwrap_err();
    assert!(journal.unpublished(0, 10).await.unwrap().is_empty());
    assert!(journal.unfinished(&taken.order.host).await.unwrap()[0].entries.is_empty());
}

#[tokio::test]
async fn the_last_good_releases_are_kept() {
    let (_folder, journal) = journal().await;
    for counter in 1..=6 {
        journal.commit(&samples::order(counter), &samples::bundle(), samples::now()).await.unwrap();
        journal.commit(&samples::order(counter), &samples::bundle(), samples::now()).await.unwrap();
    }
    journal.prune(4, samples::now()).await.unwrap();
    let kept = journal.committed(&env(), &shop(), 100).await.unwrap();
    assert_eq!(kept.iter().map(|good| good.counter.0).collect::<Vec<_>>(), [6, 5, 4, 3]);
    assert_eq!(kept[0].promotion, samples::promotion(6));
    assert_eq!(kept[0].bundle, samples::bundle());
}

#[tokio::test]
async fn what_matters_is_never_pruned() {
    let (_folder, journal) = journal().await;
    for counter in 1..=60 {
        let taken = samples::taken(counter);
        journal.take(&taken, samples::now()).await.unwrap();
        if counter != 2 {
            journal
                .end(&taken.order, OutcomeKind::DeploySuperseded, &[ended(counter, None)], samples::now())
                .await
                .unwrap();
        }
    }
    let much_later = samples::now() + Duration::from_secs(365 * 24 * 60 * 60);
    journal.prune(4, much_later).await.unwrap();
    assert_eq!(journal.unpublished(0, 100).await.unwrap().len(), 59);
    assert_eq!(journal.unfinished(&samples::order(2).host).await.unwrap().len(), 1);
    assert_eq!(journal.standing(&env(), &shop()).await.unwrap().unwrap().counter, Counter(60));
    assert_eq!(journal.handled(&samples::taken(1).message).await.unwrap(), None);
    // Those that are kept, and the one past them.
    let first_kept = 60 - RELEASES_KEPT.cast_unsigned() + 1;
    assert!(journal.has_taken(samples::order(first_kept).id).await.unwrap());
    assert!(!journal.has_taken(samples::order(first_kept - 1).id).await.unwrap());
}

#[tokio::test]
async fn a_damaged_journal_is_refused() {
    let (folder, journal) = journal().await;
    for counter in 1..=40 {
        journal.take(&samples::taken(counter), samples::now()).await.unwrap();
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&journal.pool).await.unwrap();
    journal.close().await;
    let path = folder.path().join(FILE_NAME);
    let whole = std::fs::read(&path).unwrap();

    let mut torn = whole.clone();
    let pages = torn.len() / 4096;
    for page in 2..pages {
        torn[page * 4096..page * 4096 + 64].fill(0xff);
    }
    for damaged in [torn, b"this is no database, and long enough to be looked at".repeat(100)] {
        std::fs::write(&path, &damaged).unwrap();
        let error = Journal::open(folder.path()).await.unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("hint: "), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "nothing was changed");
    }
    std::fs::write(&path, &whole).unwrap();
    Journal::open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused_with_what_to_do() {
    for change in ["version = version + 1_000 WHERE version > 1", "checksum = x'00' WHERE version = 1"] {
        let (folder, journal) = journal().await;
        let sql = format!("UPDATE _sqlx_migrations SET {change}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&journal.pool).await.unwrap();
        journal.close().await;
        let error = Journal::open(folder.path()).await.unwrap_err();
        assert!(matches!(error, JournalError::Migrate { .. }), "{error:?}");
        assert!(error.to_string().contains("hint: if a newer executor wrote it, install that one again"), "{error}");
    }
}

#[tokio::test]
async fn the_disk_is_written_through() {
    let (_folder, journal) = journal().await;
    let pragma = async |name: &'static str| {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA {name}"))).fetch_one(&journal.pool).await.unwrap();
        row.try_get::<i64, _>(0).map(|number| number.to_string()).or_else(|_| row.try_get::<String, _>(0)).unwrap()
    };
    assert_eq!(pragma("journal_mode").await, "wal");
    assert_eq!(pragma("synchronous").await, "2", "FULL");
    assert_eq!(pragma("foreign_keys").await, "1");
}

#[tokio::test]
async fn the_files_are_readable_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _journal = Journal::open(folder.path()).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

/// As SQLite does by itself when the disk is full.
#[tokio::test]
async fn a_write_that_sqlite_rolled_back_itself_is_followed_by_others() {
    let (_folder, journal) = journal().await;
    let taken = samples::taken(5);
    journal.take(&taken, samples::now()).await.unwrap();
    let step =
        || Step { order: &taken.order, at: samples::now(), input: &Input::Begin, announcements: &[], terminal: None };
    let full = "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END";
    sqlx::query(full).execute(&journal.pool).await.unwrap();
    for _ in 0..2 {
        let error = journal.record(step()).await.unwrap_err();
        assert!(crate::causes(&error).contains("the disk is full"), "{error:?}");
    }
    sqlx::query("DROP TRIGGER full").execute(&journal.pool).await.unwrap();
    journal.record(step()).await.unwrap();
}

/// At the limit everything is kept, one past it the oldest goes.
#[tokio::test]
async fn junk_does_not_fill_the_journal() {
    let (_folder, journal) = journal().await;
    let count = async |table: &'static str| -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(sql).fetch_one(&journal.pool).await.unwrap()
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {TOLD_KEPT}) \
         INSERT INTO outbox (event_id, subject, body, created_at, published_at) SELECT i, 'landfall.x', x'00', i, i FROM n; \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO refusals (message, code, refused_at) SELECT 'message-' || i, 'malformed', i FROM n",
        REFUSALS_KEPT - 1
    )))
    .execute(&journal.pool)
    .await
    .unwrap();
    let refuse = async |message: &str| {
        let message = MessageId::stored(message.to_owned());
        let announcements = [Announcement { settles: Some(message.clone()), ..ended(1, None) }];
        journal.refuse(&message, ReasonCode::Malformed, &announcements, samples::now()).await.unwrap();
    };
    refuse("one").await;
    assert_eq!((count("refusals").await, count("outbox").await), (REFUSALS_KEPT, TOLD_KEPT));
    refuse("two").await;
    assert_eq!((count("refusals").await, count("outbox").await), (REFUSALS_KEPT, TOLD_KEPT));
    let handled = async |message: &str| journal.handled(&MessageId::stored(message.to_owned())).await.unwrap();
    assert_eq!(handled("message-1").await, None);
    // What the bus has not been told yet stays, however much there is.
    assert_eq!(handled("one").await, Some(Handled::UnderWay));
    assert_eq!(journal.unpublished(0, 10).await.unwrap().len(), 2);
}

/// As the hint for a damaged one says: what was remembered beside it does not stop the starts after the next.
#[tokio::test]
async fn a_journal_that_was_moved_away_begins_anew_for_good() {
    let (folder, first) = journal().await;
    first.take(&samples::taken(7), samples::now()).await.unwrap();
    first.close().await;
    std::fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
    let second = Journal::open(folder.path()).await.unwrap();
    second.take(&samples::taken(5), samples::now()).await.unwrap();
    second.close().await;
    Journal::open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_rule_is_kept_in_the_place_of_what_was_read() {
    let (folder, journal) = journal().await;
    let subject = landfall_schema::subject::environment_policy(&env());
    let rule = |made: u64| Rule {
        id: EventId(uuid::Builder::from_unix_timestamp_millis(made, &[0; 10]).into_uuid()),
        body: made.to_string().into_bytes(),
        signature: Some("s".to_owned()),
    };
    assert_eq!(journal.rule(&subject).await.unwrap(), None);
    for (said, over, kept) in [(2, None, 2), (4, Some(1), 2), (5, None, 2), (3, Some(2), 3)] {
        let over = over.map(|made| rule(made).id);
        journal.keep_rule(&subject, &rule(said), over).await.unwrap();
        assert_eq!(journal.rule(&subject).await.unwrap(), Some(rule(kept)));
    }
    journal.close().await;
    let again = Journal::open(folder.path()).await.unwrap();
    assert_eq!(again.rule(&subject).await.unwrap(), Some(rule(3)));
    sqlx::query("UPDATE rules SET body = x'00'").execute(&again.pool).await.unwrap();
    again.close().await;
    let error = Journal::open(folder.path()).await.unwrap_err().to_string();
    assert!(error.contains("row 1 of rules was changed"), "{error}");
}
