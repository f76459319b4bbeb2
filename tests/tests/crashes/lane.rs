//! One host with the executor that has failpoints, on which one deploy after the other is killed; and what must be true after each.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_ENVIRONMENT_POLICY};
use landfall_schema::gates::EnvironmentPolicy;
use landfall_schema::ids::EventId;
use landfall_schema::outcome::{Outcome, OutcomeKind, ReasonCode};
use landfall_schema::promotion::Intent;
use landfall_schema::subject;
use landfall_tests::database::Database;
use landfall_tests::failpoints::Failpoints;
use landfall_tests::lab::program;
use landfall_tests::names;
use landfall_tests::outcomes::Outcomes;
use landfall_tests::process::{Process, until};
use landfall_tests::promotion::Draft;
use landfall_tests::scenario::{DEPLOY_LIMIT, Scenario};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;
use uuid::Uuid;

use super::path::{Path, Release, Releases};

/// Many deploys share the machine: what fails only for want of time says nothing of a crash.
const PATIENCE: u32 = 4;
/// After a terminal outcome, for a second kill that may come or not.
const SECOND_KILL_LIMIT: Duration = Duration::from_millis(800);
/// For everything to be told and acknowledged; longer than a message waits for its acknowledgement.
const SETTLED_LIMIT: Duration = Duration::from_secs(60);

/// When the executor is killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kill {
    pub(crate) point: String,
    pub(crate) nth: usize,
    /// The failpoint that ends it once more, at its first passing after the restart.
    pub(crate) again: Option<String>,
}

impl Kill {
    /// The one moment at which nobody can know: a statement without a transaction was announced, and is not known to have ended.
    fn cuts_a_statement_off(&self) -> bool {
        const ANNOUNCED: &str = "fence.doing";
        self.point == ANNOUNCED || self.again.as_deref() == Some(ANNOUNCED)
    }
}

/// What became of one kill. The rest of what must be true is an error when it is not.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The second kill came.
    pub(crate) again: bool,
    /// It ended with "nobody knows", as it must when a statement without a transaction was cut off.
    pub(crate) unknown: bool,
}

pub(crate) struct Lane {
    path: Path,
    scenario: Scenario,
    failpoints: Failpoints,
    database: Database,
    releases: Releases,
    /// What serves, with the number of its promotion; and what served before.
    serving: Vec<(Release, u64)>,
    ledger: Process,
    /// How often each kind of outcome is said when nobody is killed.
    told: BTreeMap<OutcomeKind, usize>,
}

impl Lane {
    /// A host on which a first release serves, unless the path is about the first one. With the failpoints that a deploy passes when
    /// nobody is killed.
    ///
    /// # Errors
    /// When that does not succeed.
    pub(crate) async fn open(path: Path) -> Result<(Self, Vec<String>)> {
        let mut scenario = Scenario::without_hosts().await?;
        scenario.patience = PATIENCE;
        let failpoints = Failpoints::in_folder(scenario.folder());
        let sections = path.sections(scenario.folder())?;
        // Few are kept, so that every commit has something to clean up.
        scenario
            .add_host("host-a", |settings| {
                failpoints.equip(settings);
                settings.keep_releases = 1;
                settings.sections = sections;
                if path == Path::Ruled {
                    settings.admins = settings.trusted.clone();
                }
            })
            .await?;
        let database = Database::create(&scenario.lab).await?;
        let releases = Releases::new(path, &mut scenario, &database).await?;
        let ledger = follow(&scenario)?;
        let (serving, told) = (Vec::new(), BTreeMap::new());
        let mut lane = Self { path, scenario, failpoints, database, releases, serving, ledger, told };
        if path != Path::FirstFails {
            lane.deploy_good().await?;
            lane.deploy_good().await?;
        }
        let passed = lane.reference().await?;
        Ok((lane, passed))
    }

    /// The same as a case, and nobody is killed.
    async fn reference(&mut self) -> Result<Vec<String>> {
        let (release, draft) = self.prepare().await?;
        self.failpoints.trace()?;
        self.begin(&draft).await?;
        let counter = draft.counter();
        self.scenario.terminal(0, counter).await?;
        self.settled().await?;
        let passed = self.at_rest().await?;
        self.failpoints.disarm()?;
        self.told = self.kinds(counter);
        self.check(release, counter, &mut Seen::default()).await?;
        Ok(passed)
    }

    /// What was passed, when nothing more is: the acknowledgement and the journal's tidying come after the last word.
    async fn at_rest(&self) -> Result<Vec<String>> {
        until("the executor is at rest", SETTLED_LIMIT, async || {
            let passed = self.failpoints.passed()?;
            let last = self.path.passed_last().iter();
            let missing: Vec<_> = last.filter(|name| !passed.iter().any(|one| one == *name)).collect();
            ensure!(missing.is_empty(), "not passed yet: {missing:?}");
            Ok(passed)
        })
        .await
    }

    /// Begins what the path is about.
    async fn begin(&mut self, draft: &Draft) -> Result<()> {
        if self.path == Path::Ruled {
            self.rule_anew().await?;
        }
        if self.path != Path::BusRestored {
            self.scenario.publish(draft).await?;
            return Ok(());
        }
        let older = TempDir::with_prefix("landfall-store-")?;
        self.scenario.nats.down().await?;
        self.scenario.nats.copy_store(older.path())?;
        self.scenario.nats.up().await?;
        self.scenario.publish(draft).await?;
        self.scenario.terminal(0, draft.counter()).await?;
        self.settled().await?;
        self.scenario.nats.down().await?;
        self.scenario.nats.replace_store(Some(older.path()))?;
        self.scenario.nats.up().await?;
        self.scenario.outcomes = Outcomes::follow(&self.scenario.bus);
        Ok(())
    }

    /// Says another policy, which demands nothing.
    async fn rule_anew(&self) -> Result<()> {
        let Scenario { env, bus, promoter, .. } = &self.scenario;
        let policy = EnvironmentPolicy {
            env: env.clone(),
            requires: None,
            approvals: None,
            freeze_windows: Vec::new(),
            author: "ann".to_owned(),
        };
        let id = EventId(Uuid::now_v7());
        let body = CloudEvent::new(id, "/test", TYPE_ENVIRONMENT_POLICY, Timestamp::now(), policy).encode()?;
        let to = subject::environment_policy(env);
        bus.publish_signed(&to, id, &body, Some(&promoter.header(&body)?), None).await?;
        Ok(())
    }

    /// Deploys the next release and kills the executor in the middle of it; then everything must be as if nobody had.
    ///
    /// # Errors
    /// When it is not, or the failpoint was not reached.
    pub(crate) async fn kill(&mut self, kill: &Kill) -> Result<Seen> {
        let (release, draft) = self.prepare().await?;
        let counter = draft.counter();
        self.failpoints.arm(&kill.point, kill.nth)?;
        self.begin(&draft).await?;
        self.dies(DEPLOY_LIMIT * PATIENCE).await.with_context(|| format!("{} was not reached", kill.point))?;
        ensure!(self.failpoints.has_killed(&kill.point)?, "the executor ended, but not at {}", kill.point);
        let mut seen = Seen::default();
        if let Some(again) = &kill.again {
            self.failpoints.arm(again, 1)?;
            self.scenario.host().executor.kill();
            self.scenario.host().executor.start()?;
            seen.again = self.dies_or_ends(counter).await?;
            ensure!(seen.again == self.failpoints.has_killed(again)?, "the executor ended, but not at {again}");
        }
        self.failpoints.disarm()?;
        if !self.scenario.host().executor.is_running() {
            self.scenario.host().executor.kill();
            self.scenario.start_executor(0).await?;
        }
        self.check(release, counter, &mut seen).await?;
        ensure!(!seen.unknown || kill.cuts_a_statement_off(), "nobody has to look after {kill:?}");
        Ok(seen)
    }

    /// The next release of the path, and its promotion.
    async fn prepare(&mut self) -> Result<(Release, Draft)> {
        if self.path == Path::SignedRollback {
            // The two releases take turns.
            let (release, number) = self.serving.remove(0);
            let draft = release.back_to(&mut self.scenario, number)?;
            return Ok((release, draft));
        }
        let release = self.releases.next(&self.scenario, self.path.is_good()).await?;
        if self.path == Path::Removal {
            let name = names::unique("pr");
            let made = release.preview(&mut self.scenario, &name, Intent::Promote)?;
            self.scenario.publish(&made).await?;
            let outcome = self.scenario.terminal(0, made.counter()).await?;
            ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "the preview was not made: {outcome:#?}");
            let draft = release.preview(&mut self.scenario, &name, Intent::Remove)?;
            return Ok((release, draft));
        }
        let draft = release.draft(self.path, &mut self.scenario, false).await?;
        Ok((release, draft))
    }

    async fn deploy_good(&mut self) -> Result<()> {
        let release = self.releases.next(&self.scenario, true).await?;
        let draft = release.draft(self.path, &mut self.scenario, true).await?;
        self.scenario.publish(&draft).await?;
        let outcome = self.scenario.terminal(0, draft.counter()).await?;
        ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "the next good release: {outcome:#?}");
        self.scenario.assert_runs(&release.image, &release.version).await?;
        self.serves(release, draft.counter());
        Ok(())
    }

    fn serves(&mut self, release: Release, counter: u64) {
        self.serving.push((release, counter));
        if self.serving.len() > 2 {
            self.serving.remove(0);
        }
    }

    async fn dies(&mut self, limit: Duration) -> Result<()> {
        let executor = &mut self.scenario.host().executor;
        until("the executor ends itself", limit, async || {
            ensure!(!executor.is_running(), "it runs on:\n{}", executor.log());
            Ok(())
        })
        .await
    }

    /// Whether it died; otherwise the deploy has ended, and the failpoint was not passed any more.
    async fn dies_or_ends(&mut self, counter: u64) -> Result<bool> {
        match self.scenario.terminal(0, counter).await {
            Ok(_) => Ok(self.dies(SECOND_KILL_LIMIT).await.is_ok()),
            Err(_) if !self.scenario.host().executor.is_running() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Everything that must be true after a deploy, however often its executor was killed.
    async fn check(&mut self, release: Release, counter: u64, seen: &mut Seen) -> Result<()> {
        let outcome = self.scenario.terminal(0, counter).await?;
        seen.unknown = is_unknown(&outcome);
        let expected = if seen.unknown { OutcomeKind::DeployFailed } else { self.path.ends_as() };
        ensure!(outcome.kind == expected, "it ended as {outcome:#?}");
        self.settled().await?;
        if seen.unknown {
            let said = self.scenario.cli()?.run(&["migration", "resolve", "shop"]).await?;
            ensure!(said.code == 0, "the schema cannot be said to be in order: {said:?}");
        } else {
            self.nothing_is_lost(counter).await?;
        }
        self.said_once(counter)?;
        if self.path == Path::Removal {
            return self.is_gone(outcome.app.as_str());
        }
        if outcome.kind == OutcomeKind::DeploySucceeded {
            self.scenario.assert_runs(&release.image, &release.version).await?;
            self.migrated_once().await?;
            self.serves(release, counter);
            return Ok(());
        }
        match self.serving.last() {
            Some((former, _)) => self.scenario.assert_runs(&former.image, &former.version).await?,
            None => {
                let left = self.scenario.engine.running_digests(&self.scenario.hosts[0].project)?;
                ensure!(left.is_empty(), "nothing was here before, and {left:?} runs");
                return Ok(());
            }
        }
        // The next good release also applies what the unknown one left out.
        self.deploy_good().await?;
        self.migrated_once().await
    }

    /// Nothing of the preview is on the host any more, and the application beside it serves on.
    fn is_gone(&self, project: &str) -> Result<()> {
        let filter = format!("label=com.docker.compose.project={project}");
        for list in [["ps", "--all", "--quiet"], ["network", "ls", "--quiet"], ["volume", "ls", "--quiet"]] {
            let left = self.scenario.engine.docker(&[list.as_slice(), &["--filter", &filter]].concat())?;
            ensure!(left.trim().is_empty(), "{list:?} still shows {left}");
        }
        self.scenario.container().map(drop)
    }

    /// Every kind of outcome that is said when nobody is killed was said, as often.
    async fn nothing_is_lost(&mut self, counter: u64) -> Result<()> {
        let lost = |told: &BTreeMap<OutcomeKind, usize>, kinds: &BTreeMap<OutcomeKind, usize>| -> Vec<String> {
            let missing = told.iter().filter(|(kind, times)| kinds.get(kind) != Some(times));
            missing.map(|(kind, times)| format!("{kind}: {times}, not {:?}", kinds.get(kind))).collect()
        };
        let told = self.told.clone();
        let wanted = self.path;
        let deadline = std::time::Instant::now() + SETTLED_LIMIT;
        loop {
            let missing = lost(&told, &self.kinds(counter));
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "outcomes lost or said twice on {wanted:?}: {}",
                missing.join("; ")
            );
            // What a rollout decides is told beside the deploy, and may come after its end.
            let end = Duration::from_millis(200);
            drop(self.scenario.outcomes.wait("more outcomes", end, |_| false).await);
        }
    }

    /// One terminal outcome, and no event twice.
    fn said_once(&self, counter: u64) -> Result<()> {
        let seen = self.scenario.outcomes.seen();
        let terminal = seen.iter().filter(|one| one.data.counter.0 == counter && one.data.kind.is_terminal()).count();
        ensure!(terminal == 1, "{terminal} terminal outcomes of #{counter}");
        let mut ids = BTreeSet::new();
        for one in seen {
            ensure!(ids.insert(one.id.to_string()), "{} was published twice: {}", one.id, one.data.kind);
        }
        Ok(())
    }

    /// How often each kind was said of a promotion. Progress and waiting are told as they happen, and drift by itself.
    fn kinds(&self, counter: u64) -> BTreeMap<OutcomeKind, usize> {
        let mut kinds = BTreeMap::new();
        for kind in self.scenario.outcomes.kinds("host-a", counter) {
            if !matches!(kind, OutcomeKind::ImagePulling | OutcomeKind::ReleaseWaiting | OutcomeKind::DriftDetected) {
                *kinds.entry(kind).or_insert(0) += 1;
            }
        }
        kinds
    }

    /// Each migration of all releases so far, exactly once.
    async fn migrated_once(&mut self) -> Result<()> {
        if !self.path.migrates() {
            return Ok(());
        }
        let directory = self.scenario.host().directory.clone();
        let applied = match self.path {
            path if path.has_migrator() => {
                let runs = std::fs::read_to_string(directory.join("data/runs"))?;
                runs.lines().map(str::to_owned).collect()
            }
            Path::Sqlite => {
                let options = SqliteConnectOptions::new().filename(directory.join("shop.db")).read_only(true);
                let pool = SqlitePool::connect_with(options).await?;
                let rows: Vec<String> = sqlx::query_scalar("SELECT name FROM applied").fetch_all(&pool).await?;
                pool.close().await;
                rows
            }
            _ => self.database.texts("SELECT name FROM applied").await?,
        };
        let mut applied: Vec<String> = applied;
        applied.sort();
        let mut wanted = self.releases.migrations();
        wanted.sort();
        ensure!(applied == wanted, "migrations doubled or lost: applied were {applied:?}, expected {wanted:?}");
        Ok(())
    }

    /// The journal has nothing left to tell.
    async fn settled(&mut self) -> Result<()> {
        let journal = self.scenario.host().executor.state_dir().join("journal.sqlite");
        let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(journal).read_only(true)).await?;
        let told = until("everything is told", SETTLED_LIMIT, async || {
            let left: i64 =
                sqlx::query_scalar("SELECT count(*) FROM outbox WHERE settles IS NOT NULL AND published_at IS NULL")
                    .fetch_one(&pool)
                    .await?;
            ensure!(left == 0, "{left} outcomes are not told");
            Ok(())
        })
        .await;
        pool.close().await;
        told
    }

    /// At the end: the next good release deploys, every message is acknowledged, and the ledger has what the stream has, each once.
    ///
    /// # Errors
    /// When something of this is not so.
    pub(crate) async fn close(mut self) -> Result<()> {
        if self.path != Path::SignedRollback {
            self.deploy_good().await?;
        }
        let stream = self.scenario.bus.jetstream().get_stream("DESIRED").await?;
        until("every promotion is acknowledged", SETTLED_LIMIT, async || {
            let mut names = stream.consumer_names();
            while let Some(name) = futures_util::StreamExt::next(&mut names).await.transpose()? {
                let info = stream.consumer_info(&name).await?;
                ensure!(info.num_pending == 0 && info.num_ack_pending == 0, "{name} has unacknowledged promotions");
            }
            Ok(())
        })
        .await?;
        let published = self.scenario.bus.jetstream().get_stream("OUTCOMES").await?.info().await?.state.messages;
        let ledger = SqliteConnectOptions::new().filename(self.scenario.folder().join("ledger.db")).read_only(true);
        let pool = SqlitePool::connect_with(ledger).await?;
        until("the ledger is complete", SETTLED_LIMIT, async || {
            let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM outcomes").fetch_one(&pool).await?;
            ensure!(u64::try_from(kept)? == published, "the ledger has {kept} of {published} outcomes");
            Ok(())
        })
        .await?;
        pool.close().await;
        ensure!(self.ledger.is_running(), "the ledger's program ended");
        Ok(())
    }
}

/// A statement without a transaction was cut off: no program can know whether it ran, so people are asked.
fn is_unknown(outcome: &Outcome) -> bool {
    outcome.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::MigrationUnknown)
}

fn follow(scenario: &Scenario) -> Result<Process> {
    let database = format!("sqlite://{}", scenario.folder().join("ledger.db").display());
    let mut command = Command::new(program("landfall-audit")?);
    command.args(["--database", &database, "run"]).env_remove("LANDFALL_ENV").env("NATS_URL", scenario.nats.url());
    Process::start("landfall-audit", &mut command, &scenario.folder().join("audit.log"))
}
