//! The real executor, ended with SIGKILL at every failpoint it passes, once and twice, on every way that a deploy can go. `make crash`
//! runs all of it and prints the table.
//!
//! In reading order: [`path`] says what is deployed, [`lane`] kills and checks, [`table`] sums up.

mod lane;
mod path;
mod table;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};

use lane::{Kill, Lane};
use path::Path;
use table::{Line, Verdict, record};

/// The kills of one path are shared out among so many tests, which run beside each other.
const SHARDS: usize = 4;
/// Of failpoints that are passed often, so many passings are tried: the first, the last, and some between.
const PASSINGS_MAX: usize = 4;

/// To look into some failpoints: the beginning of their names.
const POINT: &str = "LANDFALL_CRASH_POINT";

/// Whether to try every passing on the thorough paths too.
const THOROUGH: &str = "LANDFALL_CRASH_THOROUGH";

/// Every kill of a path whose deploy passes these failpoints: each at its first passing, once, and twice where the executor passes it again
/// after its restart. Where it shall be thorough, further passings are tried, and the second kill also comes one failpoint later.
fn kills(path: Path, passed: &[String]) -> Vec<Kill> {
    let is_thorough = path.is_thorough() && std::env::var_os(THOROUGH).is_some();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for name in passed.iter().filter(|name| path.is_about(name)) {
        *times.entry(name).or_default() += 1;
    }
    let mut kills = Vec::new();
    let wanted = std::env::var(POINT).unwrap_or_default();
    for (name, times) in times.into_iter().filter(|(name, _)| name.starts_with(&wanted)) {
        for nth in passings(name, if is_thorough { times } else { 1 }) {
            kills.push(Kill { point: name.to_owned(), nth, again: None });
        }
        kills.push(Kill { point: name.to_owned(), nth: 1, again: Some(name.to_owned()) });
        if let Some(next) = next(passed, name).filter(|_| is_thorough) {
            kills.push(Kill { point: name.to_owned(), nth: 1, again: Some(next) });
        }
    }
    kills
}

/// Which passings of a failpoint are tried. Every write of a step is a state of its own.
fn passings(name: &str, times: usize) -> Vec<usize> {
    if times <= PASSINGS_MAX || name.starts_with("journal.") {
        return (1..=times).collect();
    }
    let last = PASSINGS_MAX - 1;
    (0..=last).map(|index| 1 + index * (times - 1) / last).collect()
}

/// The failpoint that comes next, where the executor goes on: what is told to the bus meanwhile is told beside it.
fn next(passed: &[String], name: &str) -> Option<String> {
    let is_beside = |name: &str| name.starts_with("outbox.") || name.starts_with("ack.");
    let first = passed.iter().position(|one| one == name)?;
    let mut after = passed[first..].iter().filter(|one| *one != name && is_beside(one) == is_beside(name));
    after.next().cloned()
}

/// By the name, since what is passed beside a deploy may differ from one host to the next.
fn shard_of(kill: &Kill) -> usize {
    let name = kill.point.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    (name + kill.nth + usize::from(kill.again.is_some())) % SHARDS
}

/// One share of a path's kills. After a failure the rest goes on with a host of its own, so that one run tells of all.
async fn shard(path: Path, shard: usize) -> Result<()> {
    let (lane, passed) = Lane::open(path).await?;
    let mut lane = Some(lane);
    let mut failures = Vec::new();
    let done = table::survived()?;
    for kill in kills(path, &passed) {
        if shard_of(&kill) != shard || done.contains(&(path.name(), kill.clone())) {
            continue;
        }
        let mut on = match lane.take() {
            Some(lane) => lane,
            None => match Lane::open(path).await {
                Ok((lane, _)) => lane,
                Err(error) => {
                    failures.push(format!("no new host for the rest: {error:#}"));
                    break;
                }
            },
        };
        let began = Instant::now();
        let seen = on.kill(&kill).await;
        let verdict = Verdict::of(&kill, &seen);
        record(&Line { path: path.name(), kill: kill.clone(), verdict, took: began.elapsed() })?;
        match seen {
            Ok(_) => lane = Some(on),
            // What the lane was in the middle of is shown when it is dropped.
            Err(error) => failures.push(format!("{kill:?}: {error:#}")),
        }
    }
    if let Some(lane) = lane {
        lane.close().await?;
    }
    ensure!(failures.is_empty(), "{} kills were not survived:\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

macro_rules! paths {
    ($($path:ident: $module:ident),* $(,)?) => {
        $(mod $module {
            use super::{Path, Result, shard};

            #[tokio::test]
            #[ignore = "minutes: make crash"]
            async fn shard_0() -> Result<()> {
                shard(Path::$path, 0).await
            }

            #[tokio::test]
            #[ignore = "minutes: make crash"]
            async fn shard_1() -> Result<()> {
                shard(Path::$path, 1).await
            }

            #[tokio::test]
            #[ignore = "minutes: make crash"]
            async fn shard_2() -> Result<()> {
                shard(Path::$path, 2).await
            }

            #[tokio::test]
            #[ignore = "minutes: make crash"]
            async fn shard_3() -> Result<()> {
                shard(Path::$path, 3).await
            }
        })*

        const PATHS: &[Path] = &[$(Path::$path),*];
    };
}

paths! {
    SqlFiles: sql_files,
    Sqlite: sqlite,
    Migrator: migrator,
    RollsBack: rolls_back,
    FirstFails: first_fails,
    Partial: partial,
    PartialRollsBack: partial_rolls_back,
    Coordinated: coordinated,
    CoordinatedRollsBack: coordinated_rolls_back,
    SignedRollback: signed_rollback,
    Removal: removal,
    Refused: refused,
    BusRestored: bus_restored,
    Ruled: ruled,
}

/// Not shipped, not even by name. `grep` looks, since the program is large.
#[test]
fn the_shipped_executor_has_no_failpoints() -> Result<()> {
    let has = |text: &str| -> Result<bool> {
        let program = landfall_tests::lab::program("landfall-executor")?;
        let looked = std::process::Command::new("grep").args(["-q", "-a", "-F", text]).arg(program).status()?;
        Ok(looked.success())
    };
    ensure!(has("landfall-executor")?, "the search finds nothing at all");
    for trace in ["LANDFALL_FAILPOINT", "outbox.publish.before"] {
        ensure!(!has(trace)?, "the executor that is shipped was built with the feature `failpoints`: it has {trace}");
    }
    Ok(())
}

/// A failpoint that is new in the source must be known to the matrix, or the table would be complete without it.
#[test]
fn every_failpoint_of_the_source_is_known() -> Result<()> {
    let named = table::named()?;
    ensure!(named.len() > 50, "only {named:?} were found");
    for write in table::journal_writes()? {
        ensure!(named.contains(&format!("journal.{write}.before")), "the journal's write {write} is not in PARTS");
    }
    ensure!(named.contains("effect.Update.before") && named.contains("outbox.publish.after"), "{named:?}");
    Ok(())
}

/// What `make crash` ends with: every failpoint was reached on some path and killed there, and nothing was lost or done twice.
#[test]
#[ignore = "after the kills: make crash"]
fn the_table() -> Result<()> {
    table::print(&PATHS.iter().map(|path| path.name()).collect::<Vec<_>>())
}

#[test]
fn often_passed_failpoints_are_tried_at_both_ends() {
    assert_eq!(passings("outbox.publish.before", 3), [1, 2, 3]);
    assert_eq!(passings("outbox.publish.before", 20), [1, 7, 13, 20]);
    assert_eq!(passings("journal.record.after", 6).len(), 6);
}
