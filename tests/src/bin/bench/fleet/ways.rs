//! The same new version on every host: by the engines' API in parallel, by parallel `ssh` and Compose, and by Landfall. The first two end
//! when every host answers with the new version over HTTP; Landfall's ends with the last host's committed outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::DEPLOY_LIMIT;
use landfall_tests::stack::Stack;

use super::ssh::Ssh;
use crate::host::swap::{Bare, READY};

pub(crate) struct Samples {
    pub(crate) hosts: usize,
    pub(crate) bare: Vec<Duration>,
    pub(crate) ssh: Vec<Duration>,
    pub(crate) landfall: Vec<Duration>,
    /// Publish to the rollout's last word.
    pub(crate) word: Vec<Duration>,
    /// What each step took on each host, by the outcomes.
    pub(crate) steps: BTreeMap<String, Vec<Duration>>,
}

pub(crate) struct Took {
    bare: Duration,
    ssh: Duration,
    landfall: Duration,
    word: Duration,
    steps: BTreeMap<String, Vec<Duration>>,
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bare, ssh, landfall, word, .. } = self;
        write!(f, "bare {bare:.2?}, ssh {ssh:.2?}, Landfall {landfall:.2?}, last word {word:.2?}")
    }
}

impl Samples {
    pub(crate) fn of(hosts: usize) -> Self {
        let empty = Vec::new;
        Self { hosts, bare: empty(), ssh: empty(), landfall: empty(), word: empty(), steps: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, took: Took) {
        self.bare.push(took.bare);
        self.ssh.push(took.ssh);
        self.landfall.push(took.landfall);
        self.word.push(took.word);
        for (step, each) in took.steps {
            self.steps.entry(step).or_default().extend(each);
        }
    }
}

/// All ways, ready to go, side by side on the same engines, each with containers and ports of its own.
pub(crate) struct Ways {
    // Dropped in this order: the scenario takes all images away, and these two use some.
    bare: Vec<Bare>,
    ssh: Vec<Ssh>,
    scenario: FleetScenario,
}

impl Ways {
    pub(crate) async fn prepare(scenario: FleetScenario) -> Result<Self> {
        let (mut bare, mut ssh) = (Vec::new(), Vec::new());
        for host in &scenario.hosts {
            bare.push(Bare::on_machine(host.machine().clone()).await?);
            ssh.push(Ssh::start(host.machine().clone(), &scenario.folder().join(format!("{}-ssh", host.name))).await?);
        }
        Ok(Self { scenario, bare, ssh })
    }

    pub(crate) async fn run_all(&mut self, run: usize) -> Result<Took> {
        // Each way gets an image of its own, since layers that are here already would not be pulled.
        let [bare, ssh, landfall] = ["a", "b", "c"].map(|way| format!("{way}{run}"));
        let image = self.scenario.push(&bare, AppImage::version(&bare)).await?;
        let began = Instant::now();
        try_join_all(self.bare.iter_mut().map(|host| host.swap(&image, &bare))).await?;
        let took_bare = began.elapsed();
        let image = self.scenario.push(&ssh, AppImage::version(&ssh)).await?;
        let stack = Stack::app_with(&image, READY);
        let began = Instant::now();
        try_join_all(self.ssh.iter().map(|host| host.swap(&stack, &ssh))).await?;
        let took_ssh = began.elapsed();
        let (took_landfall, word, steps) = self.by_landfall(&landfall).await?;
        Ok(Took { bare: took_bare, ssh: took_ssh, landfall: took_landfall, word, steps })
    }

    async fn by_landfall(&mut self, version: &str) -> Result<(Duration, Duration, BTreeMap<String, Vec<Duration>>)> {
        let scenario = &mut self.scenario;
        let image = scenario.push(version, AppImage::version(version)).await?;
        let names: Vec<String> = scenario.hosts.iter().map(|host| host.name.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let draft = scenario.draft(&Stack::app_with(&image, READY)).await?;
        let draft = draft.coordinate(&scenario.bus, &[&names]).await?;
        let counter = draft.counter();
        let began = Instant::now();
        scenario.publish(&draft).await?;
        for number in scenario.numbers() {
            scenario.reaches(number, counter, OutcomeKind::ReleaseCommitted).await?;
        }
        let committed = began.elapsed();
        let is_word = |said: &Outcome| {
            said.counter.0 == counter && said.rollout.as_ref().is_some_and(|state| state.word().is_some())
        };
        let last = scenario.outcomes.wait("the rollout's last word", DEPLOY_LIMIT, is_word).await?;
        let word = began.elapsed();
        ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
        let mut steps = BTreeMap::<String, Vec<Duration>>::new();
        for ended in scenario.terminals(&scenario.numbers(), counter).await? {
            for (step, ms) in ended.timings_ms {
                steps.entry(step).or_default().push(Duration::from_millis(ms));
            }
        }
        scenario.assert_runs_everywhere(&image, version).await?;
        Ok((committed, word, steps))
    }
}
