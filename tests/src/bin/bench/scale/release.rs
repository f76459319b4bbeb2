//! One release to all simulated hosts, timed from its publication.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use landfall_bus::{Bus, OutcomesFrom};
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{Digest, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{RolloutPlan, Wave};
use landfall_schema::roster::Roster;
use landfall_schema::subject;
use landfall_tests::nats::NatsServer;
use landfall_tests::promotion::Draft;
use landfall_tests::registry::PushedImage;
use landfall_tests::stack::Stack;
use landfall_tests::usage::cpu_time;
use tokio::time::timeout;

use super::swarm::Swarm;

const LIMIT: Duration = Duration::from_secs(900);

pub(crate) struct Release<'s> {
    swarm: &'s Swarm,
    counter: u64,
    waves: Vec<Vec<HostName>>,
}

/// Since the release was published; and what the NATS server did meanwhile.
pub(crate) struct Took {
    /// Until the last host said that it committed the release.
    pub(crate) committed: Duration,
    /// Until the rollout's last word.
    pub(crate) word: Duration,
    /// Until the last host said that its deploy is over.
    pub(crate) over: Duration,
    pub(crate) server_cpu: Duration,
    pub(crate) sent_messages: u64,
    pub(crate) sent_bytes: u64,
}

impl<'s> Release<'s> {
    pub(crate) fn of(swarm: &'s Swarm, counter: u64) -> Self {
        Self { swarm, counter, waves: Vec::new() }
    }

    pub(crate) fn one_wave(mut self) -> Self {
        self.waves = vec![self.swarm.hosts.clone()];
        self
    }

    /// One host, a quarter of them, all others.
    pub(crate) fn three_waves(mut self) -> Self {
        let hosts = &self.swarm.hosts;
        let quarter = hosts.len().div_ceil(4);
        self.waves = vec![hosts[..1].to_vec(), hosts[1..quarter].to_vec(), hosts[quarter..].to_vec()];
        self.waves.retain(|wave| !wave.is_empty());
        self
    }

    /// Of the signed promotion, and of the hosts' keys.
    pub(crate) fn bytes(&self) -> Result<(usize, u64)> {
        let (draft, _) = self.draft()?;
        let roster = draft.event.data.plan.roster.as_ref().context("no roster")?.bytes;
        Ok((draft.signed(&self.swarm.promoter)?.body.len(), roster))
    }

    fn draft(&self) -> Result<(Draft, Vec<u8>)> {
        let Swarm { env, app, keys, .. } = self.swarm;
        let tag = format!("r{}", self.counter);
        let image = PushedImage { repository: "example/shop".to_owned(), digest: Digest::of(tag.as_bytes()), tag };
        let mut draft = Draft::of(&Stack::app(&image), env, app, Vec::new(), self.counter)?;
        let (roster, reference) = Roster::new(keys.clone()).encode()?;
        draft.event.data.plan = RolloutPlan {
            waves: self.waves.iter().cloned().map(Wave::of).collect(),
            deadline_ms: u64::try_from(LIMIT.as_millis())?,
            roster: Some(reference),
            ..RolloutPlan::default()
        };
        Ok((draft, roster))
    }

    /// Publishes it, and waits until all is over.
    pub(crate) async fn go(self, nats: &NatsServer, bus: &Bus) -> Result<Took> {
        let Swarm { env, app, hosts, promoter, .. } = self.swarm;
        let (draft, roster) = self.draft()?;
        draft.store_bundle(bus).await?;
        bus.put_bundle(&roster, draft.event.data.plan.roster.as_ref().context("no roster")?).await?;
        let filters = vec![
            subject::outcome_kind_filter(env, app, OutcomeKind::ReleaseCommitted),
            subject::terminal_filter(env, Some(app)),
            subject::rollout_filter(env, Some(app)),
        ];
        let mut said = bus.outcomes_among(filters, OutcomesFrom::New).await?;
        let (before, cpu_before) = (nats.sent().await?, cpu_time(nats.pid()?)?);
        let message = draft.signed(promoter)?;
        let began = Instant::now();
        message.publish(bus).await?;
        let mut seen = Seen { began, hosts: hosts.len(), ..Seen::default() };
        while !seen.is_all_over() {
            let left = LIMIT.saturating_sub(began.elapsed());
            match timeout(left, said.next()).await {
                Ok(Some(said)) => seen.take(&said?.body, self.counter)?,
                Ok(None) => bail!("the outcomes cannot be followed any more"),
                Err(_) => bail!("not over within {LIMIT:?}: {}", seen.counts()),
            }
        }
        let (after, server_cpu) = (nats.sent().await?, cpu_time(nats.pid()?)? - cpu_before);
        eprintln!("{} hosts, {} waves: {}", hosts.len(), self.waves.len(), seen.counts());
        Ok(Took {
            committed: *seen.commits.last().context("nobody committed")?,
            word: seen.word.context("no last word")?,
            over: seen.last_over.context("nobody ended")?,
            server_cpu,
            sent_messages: after.messages - before.messages,
            sent_bytes: after.bytes - before.bytes,
        })
    }
}

/// What was heard so far.
struct Seen {
    began: Instant,
    hosts: usize,
    committed: HashSet<HostName>,
    over: HashSet<HostName>,
    /// In the order in which they were heard.
    commits: Vec<Duration>,
    last_over: Option<Duration>,
    word: Option<Duration>,
    other: BTreeMap<String, usize>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            hosts: 0,
            committed: HashSet::new(),
            over: HashSet::new(),
            commits: Vec::new(),
            last_over: None,
            word: None,
            other: BTreeMap::new(),
        }
    }
}

impl Seen {
    fn take(&mut self, body: &[u8], counter: u64) -> Result<()> {
        let outcome = serde_json::from_slice::<CloudEvent<Outcome>>(body)?.data;
        if outcome.counter.0 != counter {
            return Ok(());
        }
        let now = self.began.elapsed();
        match outcome.kind {
            OutcomeKind::ReleaseCommitted => {
                self.committed.insert(outcome.host);
                self.commits.push(now);
            }
            OutcomeKind::DeploySucceeded => {
                self.over.insert(outcome.host);
                self.last_over = Some(now);
            }
            OutcomeKind::RolloutSucceeded => self.word = self.word.or(Some(now)),
            kind => {
                ensure!(!kind.is_failure() && !kind.is_terminal(), "{} said {kind}: {outcome:#?}", outcome.host);
                *self.other.entry(kind.to_string()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn is_all_over(&self) -> bool {
        self.word.is_some() && self.committed.len() == self.hosts && self.over.len() == self.hosts
    }

    fn counts(&self) -> String {
        let part = |of: usize| self.commits.get((self.hosts * of / 100).saturating_sub(1));
        format!(
            "{} committed (half {:.1?}, nine of ten {:.1?}, all {:.1?}), last word {:.1?}, {} over (last {:.1?}), {:?}",
            self.committed.len(),
            part(50),
            part(90),
            part(100),
            self.word,
            self.over.len(),
            self.last_over,
            self.other
        )
    }
}
