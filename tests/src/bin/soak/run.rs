//! The run: rounds of releases with faults beside them, and after each round a quiet point, at which everything is healed, comes to its end
//! and is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::process::POLL_INTERVAL;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::faults::hosts::Hosts;
use crate::faults::parts::Parts;
use crate::look::{Look, compare};
use crate::oracle::{self, Finding, Findings};
use crate::record::Record;
use crate::release::Promoter;
use crate::samples::Samples;
use crate::world::World;

/// Releases between two quiet points.
const ROUND_RELEASES: usize = 10;
/// How long the next release waits for one that was told to come to its end; a fault may hold it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Without any fault everything has come to its end within this time: the longest absence that the executors allow for is 90 s, and a wave
/// has at most 90 s.
pub(crate) const CONVERGE_LIMIT: Duration = Duration::from_secs(240);
/// A good release without any fault, and its rollout's deadline before.
const GOOD_LIMIT: Duration = Duration::from_secs(240);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Run<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) record: Record,
    pub(crate) samples: Samples,
    pub(crate) findings: &'a mut Findings,
    pub(crate) promoter: Promoter,
    pub(crate) chances: [Chance; 2],
    pub(crate) looks: Vec<Look>,
    pub(crate) ends_at: Instant,
    /// Somebody wants it to end early, in good order.
    pub(crate) interrupted: CancellationToken,
}

impl Run<'_> {
    /// # Errors
    /// At the first quiet point at which something is not as it must be, and when a fault could not be healed.
    pub(crate) async fn go(&mut self) -> Result<()> {
        eprintln!("a first release, without faults");
        self.good_release().await?;
        while Instant::now() < self.ends_at && !self.interrupted.is_cancelled() {
            self.round().await?;
            self.quiet_point().await?;
        }
        Ok(())
    }

    async fn round(&mut self) -> Result<()> {
        let Self {
            world, record, samples, promoter, chances: [hosts_chance, parts_chance], ends_at, interrupted, ..
        } = self;
        let stop = interrupted.child_token();
        let World { fleet, postgres, registry, nats_address, .. } = &mut **world;
        let FleetScenario { hosts, nats, .. } = fleet;
        let hosts =
            Hosts { hosts, chance: hosts_chance, record: record.clone(), samples: samples.clone(), stop: stop.clone() };
        let parts = Parts {
            nats,
            nats_address: *nats_address,
            postgres,
            registry,
            chance: parts_chance,
            record: record.clone(),
            stop: stop.clone(),
        };
        let releases = async {
            for _ in 0..ROUND_RELEASES {
                if Instant::now() > *ends_at || stop.is_cancelled() {
                    break;
                }
                let counter = promoter.anything().await?;
                let is_impatient = promoter.chance.percent(30);
                let patience = if is_impatient { promoter.chance.milliseconds(200, 6_000) } else { PATIENCE };
                let until = Instant::now() + patience;
                while Instant::now() < until && !stop.is_cancelled() && !record.lock().has_ended(counter) {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
            stop.cancel();
            anyhow::Ok(())
        };
        tokio::try_join!(releases, hosts.harm(), parts.harm())?;
        Ok(())
    }

    async fn quiet_point(&mut self) -> Result<()> {
        let began = Instant::now();
        eprintln!("quiet point: every fault is over");
        self.nothing_under_way().await;
        let left = self.converge().await?;
        self.findings
            .add("everything comes to its end when the faults are over", Finding { checked: 1, violations: left });
        self.judge().await?;
        if self.findings.are_good() && !self.interrupted.is_cancelled() {
            self.record.lock().converged.push(began.elapsed());
            eprintln!("quiet after {:.1?}; a good release, without faults", began.elapsed());
            self.good_release().await?;
            self.judge().await?;
        }
        if self.findings.are_good() {
            self.record.lock().faults.iter_mut().for_each(|fault| fault.survived = fault.fired);
            return Ok(());
        }
        bail!("an oracle says no")
    }

    /// Waits until every deploy has ended, or the limit is over; the judgement comes later.
    async fn nothing_under_way(&self) {
        let deadline = Instant::now() + CONVERGE_LIMIT;
        while !oracle::under_way(&self.record.lock()).is_empty() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until nothing is left that has not come to its end; returns what still is at the end of the limit.
    async fn converge(&mut self) -> Result<Vec<String>> {
        let deadline = Instant::now() + CONVERGE_LIMIT;
        loop {
            let mut left = oracle::under_way(&self.record.lock());
            if left.is_empty() {
                left = self.unlike_declared().await;
            }
            if left.is_empty() {
                left = self.unread().await.unwrap_or_else(|error| vec![format!("{error:#}")]);
            }
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Hosts whose engines run something else than the hosts have said.
    async fn unlike_declared(&mut self) -> Vec<String> {
        let mut unlike = Vec::new();
        for look in &mut self.looks {
            let declared = {
                let inner = self.record.lock();
                inner.serving(&look.host).map(|counter| (counter, inner.ordered[&counter].images.clone()))
            };
            let Some((counter, images)) = declared else { continue };
            match look.running().await.and_then(|running| compare(&images, &running)) {
                Ok(None) => {}
                Ok(Some(difference)) => {
                    unlike.push(format!("{} says that it serves #{counter}, but {difference}", look.host))
                }
                Err(error) => unlike.push(format!("{} says that it serves #{counter}: {error:#}", look.host)),
            }
        }
        unlike
    }

    /// What the ledger, or this harness, has not read yet.
    async fn unread(&self) -> Result<Vec<String>> {
        let published = self.world.published().await?;
        let heard = self.record.lock().heard.len() as u64;
        let stored = self.world.in_ledger("outcomes").await?.len() as u64;
        let mut unread = Vec::new();
        if heard != published {
            unread.push(format!("{heard} outcomes were heard, {published} are in the stream"));
        }
        if stored != published {
            unread.push(format!("{stored} outcomes are in the ledger, {published} are in the stream"));
        }
        Ok(unread)
    }

    async fn judge(&mut self) -> Result<()> {
        let declared = Finding { checked: self.looks.len() as u64, violations: self.unlike_declared().await };
        let applied = self.world.versions("SELECT version::text FROM _sqlx_migrations WHERE success").await?;
        let effects = self.world.versions("SELECT version::text FROM soak_effects").await?;
        let failed = self.world.database.texts("SELECT version::text FROM _sqlx_migrations WHERE NOT success").await?;
        let outcomes = self.world.in_ledger("outcomes").await?;
        let releases = self.world.in_ledger("releases").await?;
        let panics = self.world.panics()?;
        let inner = self.record.lock();
        let heard: BTreeSet<String> = inner.heard.iter().map(|one| one.id.to_string()).collect();
        let ordered: BTreeSet<String> = inner.ordered.values().map(|one| one.id.to_string()).collect();
        let findings = &mut *self.findings;
        findings.add("every promotion ends exactly once on every host of its plan", oracle::ended_once(&inner));
        findings.add("every rollout has exactly one last word", oracle::one_word(&inner));
        findings.add("a last word is what the hosts have signed", oracle::words_are_true(&inner));
        findings.add("the engines run what the hosts have declared", declared);
        findings.add("no host goes back unasked and unsaid", oracle::goes_forward(&inner));
        findings
            .add("every migration is in the database once", oracle::migrations(&inner, &applied, &failed, &effects));
        findings.add("every migration is told as applied once", oracle::told_once(&inner));
        findings
            .add("every outcome of the stream is in the ledger, and the contrary", oracle::ledger(&heard, &outcomes));
        findings.add("every promotion is in the ledger, and the contrary", oracle::ledger(&ordered, &releases));
        findings.add("no program panics", Finding { checked: 1, violations: panics });
        Ok(())
    }

    /// It must reach every host.
    async fn good_release(&mut self) -> Result<()> {
        let counter = self.promoter.good().await?;
        let deadline = Instant::now() + GOOD_LIMIT;
        while !self.record.lock().has_ended(counter) && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let mut found = Finding::default();
        {
            let inner = self.record.lock();
            for host in &inner.ordered[&counter].hosts {
                let ends = inner.terminals(host, counter);
                let is_so = ends == [OutcomeKind::DeploySucceeded];
                found.check(is_so, || format!("#{counter}, good and without faults, ended on {host} as {ends:?}"));
            }
            let words: Vec<OutcomeKind> = inner.words(counter).into_values().collect();
            let is_so = words == [OutcomeKind::RolloutSucceeded];
            found.check(is_so, || format!("the last word about #{counter}, good and without faults, is {words:?}"));
        }
        let is_good = found.violations.is_empty();
        self.findings.add("a good release without faults reaches every host", found);
        ensure!(is_good, "a good release did not reach every host");
        // The ledger, too, has read it before it is judged.
        let unread_deadline = Instant::now() + GOOD_LIMIT;
        while Instant::now() < unread_deadline && self.unread().await.map_or(true, |unread| !unread.is_empty()) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

/// How the deploys of all hosts ended.
pub(crate) fn ends(record: &Record) -> BTreeMap<OutcomeKind, u64> {
    let inner = record.lock();
    let mut ends = BTreeMap::new();
    for one in inner.heard.iter().filter(|one| one.data.kind.is_terminal()) {
        *ends.entry(one.data.kind).or_default() += 1;
    }
    ends
}
