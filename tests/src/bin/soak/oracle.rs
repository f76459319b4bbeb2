//! What must be true at a quiet point, whatever happened before. Each oracle says how much it has checked, and what was wrong.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::HostName;
use landfall_schema::outcome::OutcomeKind;

use crate::record::{Inner, Move};

#[derive(Debug, Clone, Default)]
pub(crate) struct Finding {
    pub(crate) checked: u64,
    pub(crate) violations: Vec<String>,
}

impl Finding {
    pub(crate) fn check(&mut self, is_so: bool, otherwise: impl FnOnce() -> String) {
        self.checked += 1;
        if !is_so {
            self.violations.push(otherwise());
        }
    }
}

/// The sums over all quiet points, by the oracle's name, in the order in which they came first.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rows: Vec<(&'static str, Finding)>,
}

impl Findings {
    pub(crate) fn add(&mut self, oracle: &'static str, found: Finding) {
        let index = self.rows.iter().position(|(name, _)| *name == oracle).unwrap_or_else(|| {
            self.rows.push((oracle, Finding::default()));
            self.rows.len() - 1
        });
        let row = &mut self.rows[index].1;
        row.checked += found.checked;
        for violation in found.violations {
            if !row.violations.contains(&violation) {
                row.violations.push(violation);
            }
        }
    }

    pub(crate) fn violations(&self) -> impl Iterator<Item = (&'static str, &String)> {
        self.rows.iter().flat_map(|(name, found)| found.violations.iter().map(move |violation| (*name, violation)))
    }

    pub(crate) fn are_good(&self) -> bool {
        self.violations().next().is_none()
    }
}

/// What has not come to its end yet, in words.
pub(crate) fn under_way(inner: &Inner) -> Vec<String> {
    ended_once(inner).violations.into_iter().chain(one_word(inner).violations).collect()
}

/// Every promotion has exactly one terminal outcome on every host of its plan. A host that never heard of it, since a newer one had taken
/// its place before, has none.
pub(crate) fn ended_once(inner: &Inner) -> Finding {
    let mut found = Finding::default();
    for (&counter, ordered) in &inner.ordered {
        for host in &ordered.hosts {
            let ends = inner.terminals(host, counter);
            let passed_by = || inner.said(host, counter).next().is_none() && ended_newer(inner, host, counter);
            let is_so = ends.len() == 1 || (ends.is_empty() && passed_by());
            found.check(is_so, || format!("#{counter} ended {} times on {host}: {ends:?}", ends.len()));
        }
    }
    found
}

fn ended_newer(inner: &Inner, host: &HostName, counter: u64) -> bool {
    inner.ordered.range(counter + 1..).any(|(&newer, _)| !inner.terminals(host, newer).is_empty())
}

/// A rollout that any host took has exactly one last word.
pub(crate) fn one_word(inner: &Inner) -> Finding {
    let mut found = Finding::default();
    for (&counter, _) in inner.ordered.iter().filter(|(_, ordered)| ordered.is_coordinated) {
        let words = inner.words(counter);
        let was_taken = inner.heard.iter().any(|one| one.data.counter.0 == counter);
        let is_so = words.len() == 1 || (words.is_empty() && !was_taken);
        found.check(is_so, || format!("#{counter} has {} last words: {:?}", words.len(), words.values()));
    }
    found
}

/// A last word is what the hosts signed: `succeeded` with a host that did not, or `rolled_back` with one that kept it, is a lie.
pub(crate) fn words_are_true(inner: &Inner) -> Finding {
    let mut found = Finding::default();
    for published in &inner.heard {
        let outcome = &published.data;
        let Some(state) = outcome.rollout.as_ref().filter(|state| state.word().is_some()) else { continue };
        let Some(ordered) = inner.ordered.get(&outcome.counter.0) else { continue };
        for host in &ordered.hosts {
            let ends = inner.terminals(host, outcome.counter.0);
            let has_it = ends.contains(&OutcomeKind::DeploySucceeded);
            let named = state.not_reached.contains_key(host) || state.differing.contains_key(host);
            let is_so = match outcome.kind {
                OutcomeKind::RolloutSucceeded => has_it,
                OutcomeKind::RolloutSucceededPartial => has_it || named,
                OutcomeKind::RolloutRolledBack => !has_it && !ends.contains(&OutcomeKind::DeployStuck),
                _ => true,
            };
            let counter = outcome.counter;
            found.check(is_so, || {
                format!("the last word about {counter} is {}, but {host} ended as {ends:?}", outcome.kind)
            });
        }
    }
    found
}

/// A host's commits only go forward, and where it went back, it says to what, and that is what it had served.
pub(crate) fn goes_forward(inner: &Inner) -> Finding {
    let mut found = Finding::default();
    for host in hosts(inner) {
        let (_, wrong) = inner.history(host);
        found.checked += 1;
        found.violations.extend(wrong);
    }
    // What the engines were seen to do is explained by the host's words.
    for Move { host, service, from, to, after, before } in &inner.moves {
        let left = inner.begun_with(host, service, from, *after);
        let taken = inner.begun_with(host, service, to, *before);
        let went_back = |kind: OutcomeKind| kind.noun() == "rollback" || kind == OutcomeKind::DeployRolledBack;
        let is_said = || inner.said(host, left).any(|one| went_back(one.data.kind));
        found.check(left <= taken || is_said(), || {
            format!("{service} of {host} went from #{left} to #{taken} before {before}, and nobody said so")
        });
    }
    found
}

pub(crate) fn hosts(inner: &Inner) -> BTreeSet<&HostName> {
    inner.ordered.values().flat_map(|ordered| &ordered.hosts).collect()
}

/// Each migration of the database is there once, by the migrator's table and by its effect; a failed one is not there; and what serves has
/// what it needs.
pub(crate) fn migrations(inner: &Inner, applied: &[i64], failed: &[String], effects: &[i64]) -> Finding {
    let mut found = Finding::default();
    let mut times: BTreeMap<i64, usize> = applied.iter().map(|&version| (version, 0)).collect();
    for version in effects {
        *times.entry(*version).or_default() += 1;
    }
    for (version, times) in times {
        // The first one makes the table of the effects.
        let expected = usize::from(version != crate::release::EFFECTS_VERSION);
        let is_applied = applied.contains(&version);
        found.check(times == expected && is_applied, || {
            format!("migration {version}: its effect is there {times} times; in the migrator's table: {is_applied}")
        });
    }
    found.check(failed.is_empty(), || format!("half-applied migrations: {failed:?}"));
    for published in inner.heard.iter().filter(|one| one.data.kind == OutcomeKind::ReleaseCommitted) {
        let Some(ordered) = inner.ordered.get(&published.data.counter.0) else { continue };
        let missing: Vec<&i64> = ordered.migrations.iter().filter(|version| !applied.contains(version)).collect();
        let outcome = &published.data;
        found.check(missing.is_empty(), || {
            format!("{} serves {} without migrations {missing:?}", outcome.host, outcome.counter)
        });
    }
    found
}

/// What was told as applied was told once.
pub(crate) fn told_once(inner: &Inner) -> Finding {
    let mut told: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for published in &inner.heard {
        for migration in &published.data.migrations {
            let who = format!("{} for {}", published.data.host, published.data.counter);
            told.entry(&migration.description).or_default().push(who);
        }
    }
    let mut found = Finding::default();
    for (migration, by) in told {
        found.check(by.len() == 1, || format!("migration {migration} was told as applied by {}", by.join(", and by ")));
    }
    found
}

/// The ledger has what the streams have, once, and every signature in it was good.
pub(crate) fn ledger(stream: &BTreeSet<String>, ledger: &BTreeMap<String, String>) -> Finding {
    let mut found = Finding::default();
    for id in stream {
        let verdict = ledger.get(id).map(String::as_str);
        found.check(verdict == Some("trusted"), || format!("event {id} of the stream is in the ledger as {verdict:?}"));
    }
    for id in ledger.keys().filter(|id| !stream.contains(*id)) {
        found.check(false, || format!("event {id} of the ledger is not in the stream"));
    }
    found
}

#[cfg(test)]
mod tests;
