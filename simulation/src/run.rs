//! Carries a scenario out, and asks the oracles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use landfall_executor::journal::Journal;
use landfall_executor::world::Step;
use landfall_schema::halt::HaltCommand;
use landfall_schema::ids::{Digest, HostName};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::planted::plant;
use landfall_schema::signature::SigningKey;
use nkeys::{KeyPair, KeyPairType};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::chance::Chance;
use crate::machine::Machine;
use crate::oracle::{self, Ledger, Told};
use crate::people::People;
use crate::scenario::{Action, Scenario, What};
use crate::server::Weather;
use crate::simulation::{Keys, Promoted, Sim, Violation};

/// After everything works again, it must have come to rest within this time.
const CONVERGES_WITHIN: Duration = Duration::from_secs(45 * 60);
/// Nothing was told for this long.
const QUIET: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A process that was killed is started again after this time, unless the scenario says otherwise.
const RESTART_MS: (u64, u64) = (200, 8_000);
/// Who approves looks each time that it was looked so often whether all is at rest: the newest word counts, and it may have been about another.
const LOOKS_PER_APPROVAL: u64 = 15;
/// The last release is promoted so often: a number that a power cut had taken is refused by hosts that know it.
const LAST_ATTEMPTS: usize = 4;
/// Who approves takes so long.
const APPROVED_AFTER_MS: (u64, u64) = (100, 15_000);

/// Processes that were killed at a step where somebody lay in wait.
pub(crate) const AMBUSHED: &str = "killed at a step";

/// What came of a run.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) deploys: usize,
    pub(crate) digest: Digest,
    pub(crate) trace: Vec<String>,
    /// Faults that happened, by kind.
    pub(crate) fired: BTreeMap<&'static str, u64>,
    /// How often each step was reached before everything was made to work, by host.
    pub(crate) steps: Vec<BTreeMap<Step, u64>>,
}

/// What runs on one thread share.
pub(crate) struct Bench {
    /// A journal with its tables, as every host's begins.
    template: Arc<TempDir>,
    /// Where the answers of simulated disks are waited for.
    disk: Arc<Runtime>,
}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        let template = tempfile::Builder::new().prefix("landfall-simulation-").tempdir_in(scratch())?;
        let disk = Builder::new_current_thread().enable_all().build()?;
        disk.block_on(async {
            let journal = Journal::open(template.path()).await?;
            journal.close().await;
            anyhow::Ok(())
        })?;
        Ok(Self { template: Arc::new(template), disk: Arc::new(disk) })
    }

    /// Carries a scenario out, from nothing, in simulated time.
    pub(crate) fn run(&self, scenario: &Scenario, bug: Option<&'static str>) -> Result<Report> {
        plant(bug);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let report = runtime.block_on(carry_out(scenario, self));
        drop(runtime);
        plant(None);
        report
    }
}

/// Memory, where there is such a file system: nothing here outlives the run.
fn scratch() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn key(number: u64) -> Result<SigningKey> {
    let mut raw = [7; 32];
    raw[..8].copy_from_slice(&number.to_be_bytes());
    let seed = KeyPair::new_from_raw(KeyPairType::User, raw)?.seed()?;
    Ok(SigningKey::from_seed(&seed)?)
}

struct Run {
    sim: Arc<Sim>,
    people: Arc<People>,
    fired: BTreeMap<&'static str, u64>,
    /// When a host whose process has ended is started again.
    down_ms: BTreeMap<HostName, u64>,
}

async fn carry_out(scenario: &Scenario, bench: &Bench) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("landfall-simulation-").tempdir_in(scratch())?;
    let keys = Keys { promoter: key(1)?, admin: key(2)?, approvers: [key(3)?, key(5)?], stranger: key(4)? };
    let chance = Arc::new(Chance::new(scenario.seed));
    let (died, mut deaths) = mpsc::unbounded_channel();
    let (env, app) = ("production".parse()?, "shop".parse()?);
    let sim = Sim::new(env, app, chance, keys, Arc::clone(&bench.template), Arc::clone(&bench.disk), died);
    let machines = (0..scenario.hosts)
        .map(|number| {
            let name = HostName::new(format!("h{}", number + 1))?;
            Ok(Machine::new(name.clone(), key(100 + number as u64)?, folder.path().join(name.as_str())))
        })
        .collect::<Result<Vec<_>>>()?;
    sim.know(machines.iter().map(|machine| (machine.name.clone(), machine.key().public())).collect());
    let people = Arc::new(People { sim: Arc::clone(&sim), machines });
    let mut run =
        Run { sim: Arc::clone(&sim), people: Arc::clone(&people), fired: BTreeMap::new(), down_ms: BTreeMap::new() };
    sim.server.set_weather(scenario.weather);
    sim.set_lies(scenario.engine_lies);
    if scenario.approvals {
        people.require_approvals()?;
    }
    for machine in &people.machines {
        machine.start(&sim)?;
    }
    let begin = tokio::time::Instant::now();
    for action in &scenario.actions {
        let at = begin + Duration::from_millis(action.at_ms);
        while let Ok(Some(host)) = timeout_at(at, deaths.recv()).await {
            run.restart_later(&host);
        }
        sleep_until(at).await;
        run.act(action, scenario)?;
    }
    let end = begin + Duration::from_millis(scenario.end_ms());
    while let Ok(Some(host)) = timeout_at(end, deaths.recv()).await {
        run.restart_later(&host);
    }
    let steps = people.machines.iter().map(|machine| machine.steps()).collect();
    // What people say next is said later, also by its id.
    sleep(Duration::from_millis(10)).await;
    run.heal(scenario)?;
    let last = run.come_to_rest(&mut deaths, scenario).await?;
    run.finish(&mut deaths).await?;
    let ledger = Ledger::read(&sim);
    oracle::ends(&sim, &people, &ledger);
    oracle::told_again(&sim, &ledger);
    oracle::digests(&sim, &people, &ledger);
    oracle::successes(&sim, &people, &ledger);
    oracle::returns(&sim, &ledger);
    oracle::passed_by(&sim, &people, &ledger);
    oracle::rollouts::judge(&sim, &people, &ledger);
    oracle::converged(&sim, &people, &last);
    oracle::deadlines(&sim, &ledger);
    oracle::rollouts::waves(&sim, &ledger);
    if scenario.approvals {
        oracle::approvals(&sim, &people);
    }
    for machine in &people.machines {
        oracle::journal::judge(&sim, machine, &ledger).await;
    }
    let ambushed: u64 = people.machines.iter().map(|machine| machine.ambushed()).sum();
    if ambushed > 0 {
        run.fired.insert(AMBUSHED, ambushed);
    }
    Ok(Report {
        violations: sim.violations(),
        deploys: ledger.deploys(),
        digest: sim.trace.digest(),
        trace: sim.trace.lines(),
        fired: run.fired,
        steps,
    })
}

impl Run {
    fn machine(&self, number: usize) -> &Arc<Machine> {
        &self.people.machines[number % self.people.machines.len()]
    }

    fn fires(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    /// After a while, unless something else has started it before.
    fn restart_later(&mut self, host: &HostName) {
        let down_ms = self.down_ms.remove(host).unwrap_or_else(|| self.sim.chance.between(RESTART_MS.0, RESTART_MS.1));
        let Some(machine) = self.people.machines.iter().find(|machine| machine.name == *host).cloned() else { return };
        let sim = Arc::clone(&self.sim);
        tokio::spawn(async move {
            sleep(Duration::from_millis(down_ms)).await;
            if let Err(error) = machine.start(&sim) {
                sim.violated("simulator", format_args!("{} cannot be started: {error:#}", machine.name));
            }
        });
    }

    fn act(&mut self, action: &Action, scenario: &Scenario) -> Result<()> {
        let (sim, people) = (Arc::clone(&self.sim), Arc::clone(&self.people));
        let later = |for_ms: u64, work: Box<dyn FnOnce() + Send>| {
            tokio::spawn(async move {
                sleep(Duration::from_millis(for_ms)).await;
                work();
            });
        };
        match &action.what {
            What::Promote(wanted) => self.promoted(Some(people.promote(wanted)?), scenario),
            What::RollBack => {
                let promoted = people.roll_back()?;
                self.promoted(promoted, scenario);
            }
            What::Say(command) => people.say(*command)?,
            What::Rule => people.require_approvals()?,
            What::Kill { host, down_ms } => {
                let machine = Arc::clone(self.machine(*host));
                if machine.is_up() {
                    self.fires("killed");
                    self.down_ms.insert(machine.name.clone(), *down_ms);
                    machine.kill();
                }
            }
            What::Terminate { host, down_ms } => {
                let machine = Arc::clone(self.machine(*host));
                if machine.is_up() {
                    self.fires("ended in order");
                    self.down_ms.insert(machine.name.clone(), *down_ms);
                    machine.terminate();
                }
            }
            What::Count => people.machines.iter().for_each(|machine| machine.count_anew()),
            What::Ambush { host, ambush } => self.machine(*host).lie_in_wait(ambush.clone()),
            What::Cut { host, how, for_ms } => {
                self.fires("cut off");
                let host = self.machine(*host).name.clone();
                sim.trace.say("network", format_args!("{host} is cut off: {how:?}"));
                sim.server.cut(&host, Some(*how));
                let (noticing, name) = (Arc::clone(&sim), host.clone());
                later(sim.chance.between(500, 6_000), Box::new(move || noticing.server.notice(&name)));
                let healing = Arc::clone(&sim);
                later(*for_ms, Box::new(move || healing.server.cut(&host, None)));
            }
            What::Deafen { host, for_ms } => {
                self.fires("deaf");
                let host = self.machine(*host).name.clone();
                sim.trace.say("network", format_args!("{host} goes deaf"));
                sim.server.deafen(&host, true);
                let healing = Arc::clone(&sim);
                later(*for_ms, Box::new(move || healing.server.deafen(&host, false)));
            }
            What::Replay { host } => {
                self.fires("replay");
                sim.server.replay(&self.machine(*host).name);
            }
            What::ServerStops { for_ms, power_cut } => {
                self.fires(if *power_cut { "power cut of the server" } else { "server stopped" });
                sim.trace.say("server", if *power_cut { "loses its power" } else { "stops" });
                sim.server.stop(*power_cut);
                let starting = Arc::clone(&sim);
                later(*for_ms, Box::new(move || starting.server.start()));
            }
            What::SetClock { host, skew_ms } => {
                self.fires("clock set");
                self.machine(*host).set_skew(*skew_ms);
            }
            What::FillDisk { host, for_ms } => {
                self.fires("disk full");
                let machine = Arc::clone(self.machine(*host));
                sim.trace.say(&machine.name, "its disk is full");
                machine.fill_disk(true);
                later(*for_ms, Box::new(move || machine.fill_disk(false)));
            }
            What::Forge(forgery) => {
                self.fires("forged");
                people.forge(*forgery)?;
            }
        }
        Ok(())
    }

    fn promoted(&self, promoted: Option<Promoted>, scenario: &Scenario) {
        let Some(promoted) = promoted.filter(|_| scenario.approvals) else { return };
        let (people, sim) = (Arc::clone(&self.people), Arc::clone(&self.sim));
        tokio::spawn(async move {
            let twice_by_one = sim.chance.happens(300).then_some(true);
            for twice_by_one in twice_by_one.into_iter().chain([false]) {
                sleep(sim.chance.millis(APPROVED_AFTER_MS.0, APPROVED_AFTER_MS.1)).await;
                if let Err(error) = people.approve(&promoted, twice_by_one) {
                    sim.violated("simulator", format_args!("nobody can approve: {error:#}"));
                }
            }
        });
    }

    /// From now on everything works.
    fn heal(&self, scenario: &Scenario) -> Result<()> {
        let Self { sim, people, .. } = self;
        sim.trace.say("world", "everything works from now on");
        sim.server.set_weather(Weather::default());
        sim.server.heal();
        sim.set_lies(0);
        for machine in &people.machines {
            machine.disarm();
            machine.set_skew(0);
            machine.fill_disk(false);
            machine.start(sim)?;
        }
        // People see what still waits for them.
        people.say(HaltCommand::Resume)?;
        if let Some(newest) = people.newest_there().filter(|_| scenario.approvals) {
            people.approve(&newest, false)?;
        }
        Ok(())
    }

    /// Promotes a last, good release once everything is quiet, and waits for its end.
    async fn come_to_rest(
        &mut self,
        deaths: &mut mpsc::UnboundedReceiver<HostName>,
        scenario: &Scenario,
    ) -> Result<Promoted> {
        let (sim, people) = (Arc::clone(&self.sim), Arc::clone(&self.people));
        self.wait_for_quiet(deaths, scenario).await?;
        let mut last = None;
        for _ in 0..LAST_ATTEMPTS {
            let promoted = people.promote_the_last()?;
            self.promoted(Some(promoted.clone()), scenario);
            self.wait_for_quiet(deaths, scenario).await?;
            let ledger = Ledger::read(&sim);
            let is_known_number = ledger.told.values().any(|told| {
                told.outcome.promotion == promoted.id
                    && told.outcome.kind == OutcomeKind::DeployRefused
                    && told.outcome.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::StaleCounter)
            });
            let is_unknown_schema = ledger.told.values().any(|told| {
                told.outcome.promotion == promoted.id
                    && told.outcome.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::MigrationUnknown)
            });
            last = Some(promoted);
            if !is_known_number && !is_unknown_schema {
                break;
            }
        }
        last.context("nothing was promoted")
    }

    async fn wait_for_quiet(
        &mut self,
        deaths: &mut mpsc::UnboundedReceiver<HostName>,
        scenario: &Scenario,
    ) -> Result<()> {
        let mut looks = 0_u64;
        let sim = Arc::clone(&self.sim);
        let limit = tokio::time::Instant::now() + CONVERGES_WITHIN;
        let mut seen = (self.people.outcomes(), tokio::time::Instant::now());
        let mut looked_at = None;
        loop {
            let look = tokio::time::Instant::now() + LOOK_INTERVAL;
            while let Ok(Some(host)) = timeout_at(look, deaths.recv()).await {
                self.restart_later(&host);
            }
            self.people.resolve_migrations()?;
            looks += 1;
            if scenario.approvals
                && looks.is_multiple_of(LOOKS_PER_APPROVAL)
                && let Some(newest) = self.people.newest_there()
            {
                self.people.approve(&newest, false)?;
            }
            let told = self.people.outcomes();
            if told != seen.0 {
                seen = (told, tokio::time::Instant::now());
            }
            // What was waited for at the last look is still waited for when nothing was told since.
            if seen.1.elapsed() >= QUIET && looked_at != Some(told) && self.is_everybody_up() {
                if self.open().is_empty() {
                    return Ok(());
                }
                looked_at = Some(told);
            }
            if tokio::time::Instant::now() >= limit {
                let open: Vec<String> = self.open().into_iter().collect();
                sim.violated("converges", format_args!("not at rest after {CONVERGES_WITHIN:?}: {}", open.join("; ")));
                return Ok(());
            }
        }
    }

    fn is_everybody_up(&self) -> bool {
        self.people.machines.iter().all(|machine| machine.is_up())
    }

    /// What is still waited for of the newest promotion.
    fn open(&self) -> Vec<String> {
        let ledger = Ledger::read(&self.sim);
        let Some(newest) = self.people.newest_there() else { return Vec::new() };
        let plan = &newest.promotion.plan;
        let mut open: Vec<String> = plan
            .hosts()
            .filter(|host| {
                !ledger.told.values().any(|told| {
                    told.outcome.promotion == newest.id
                        && told.outcome.host == **host
                        && told.outcome.kind.is_terminal()
                })
            })
            .map(|host| format!("{host} has not ended {}", newest.promotion.counter))
            .collect();
        let is_last_word = |kind: OutcomeKind| {
            use OutcomeKind::{RolloutHostSkipped, RolloutRollingBack, RolloutWaveOpened};
            kind.is_rollout() && !matches!(kind, RolloutWaveOpened | RolloutHostSkipped | RolloutRollingBack)
        };
        let is_said =
            ledger.told.values().any(|told| told.outcome.promotion == newest.id && is_last_word(told.outcome.kind));
        // Of what every host refuses nobody has anything to decide.
        let is_refused = plan.hosts().all(|host| {
            ledger.told.values().any(|told| {
                let Told { outcome, .. } = told;
                outcome.promotion == newest.id && outcome.host == *host && outcome.kind == OutcomeKind::DeployRefused
            })
        });
        if plan.is_coordinated() && !is_said && !is_refused {
            open.push(format!("the last word on {} is not said", newest.promotion.counter));
        }
        open
    }

    /// Ends every process in good order, so that its journal can be read.
    async fn finish(&mut self, deaths: &mut mpsc::UnboundedReceiver<HostName>) -> Result<()> {
        for machine in &self.people.machines {
            machine.terminate();
        }
        let limit = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.people.machines.iter().any(|machine| machine.is_up()) {
            match timeout_at(limit, deaths.recv()).await {
                Ok(Some(_)) => {}
                _ => {
                    self.sim.violated("process", "an executor did not end within 60 s");
                    break;
                }
            }
        }
        Ok(())
    }
}
