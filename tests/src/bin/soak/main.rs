//! `make soak`: releases at random and faults at random on real hosts, for as long as one likes, ending in the oracles of
//! docs/RELIABILITY.md.
//!
//! `soak MINUTES [SEED]`. The table goes to stdout, narration to stderr. Exit codes: 0 every oracle agrees, 1 one does not, or the run broke.
//! $LOGS names a folder for logs, journals, the ledger and what was said; a run that failed keeps them without being asked.
//! SIGINT or SIGTERM ends it early and in good order: faults are healed, what was seen is judged and printed. A second one skips the judging.
//!
//! In reading order: [`chance`] draws everything from one seed; [`world`] is what is real; [`release`] makes releases and [`faults`] what
//! goes wrong beside them; [`record`] remembers what was ordered, heard and seen; [`look`] asks the engines; [`run`] puts it together, and
//! [`oracle`] judges it; [`samples`] weighs the processes; [`table`] prints.

mod chance;
mod faults;
mod look;
mod oracle;
mod record;
mod release;
mod run;
mod samples;
mod table;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use landfall_tests::outcomes::Outcomes;
use landfall_tests::process::Process;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::faults::Kind;
use crate::oracle::{Finding, Findings};
use crate::record::Record;
use crate::release::Promoter;
use crate::run::Run;
use crate::samples::{Life, Samples};
use crate::table::Page;
use crate::world::World;

/// A run with so many faults has every kind of them.
const FAULTS_FOR_EACH_KIND: usize = 120;
/// Shown of what was said last when an oracle disagrees.
const LAST_EVENTS: usize = 60;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let usage = "soak MINUTES [SEED]";
    let minutes: u64 = words.next().context(usage)?.parse().context(usage)?;
    let seed = match words.next() {
        Some(word) => word.parse().context(usage)?,
        None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    };
    let [interrupted, given_up] = [CancellationToken::new(), CancellationToken::new()];
    tokio::spawn(hear_signals(interrupted.clone(), given_up.clone())?);
    eprintln!("soak: {minutes} min, seed {seed}");
    let (record, samples, mut findings) = (Record::default(), Samples::default(), Findings::default());
    let began = Instant::now();
    let mut world = World::start(&samples).await?;
    let hosts = world.fleet.hosts.len();
    let ends_at = began + Duration::from_secs(minutes * 60);
    let result = tokio::select! {
        result = soak(&mut world, &record, &samples, &mut findings, seed, ends_at, interrupted) => result,
        () = given_up.cancelled() => Err(anyhow::anyhow!("given up: what was under way is not judged")),
    };
    judge_the_whole(&mut world, &record, &samples, &mut findings);
    let is_good = result.is_ok() && findings.are_good();
    let wanted = std::env::var_os("LOGS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let kept = (!is_good || wanted.is_some()).then(|| keep(&world, &record, &samples, seed, wanted));
    drop(world);
    // After the clean-up, which tells of itself.
    print!(
        "{}",
        Page { seed, took: began.elapsed(), hosts, record: &record, lives: &samples.lives(), findings: &findings }
            .text()?
    );
    if let Some(kept) = kept.filter(|_| !is_good) {
        tell_failure(seed, minutes, &record, &findings, result, kept);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The first signal asks for an end in good order, the second for one at once.
fn hear_signals(interrupted: CancellationToken, given_up: CancellationToken) -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        for (token, what) in
            [(interrupted, "ending; once more to end without the judgement"), (given_up, "ending at once")]
        {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            eprintln!("soak: {what}");
            token.cancel();
        }
    })
}

async fn soak(
    world: &mut World,
    record: &Record,
    samples: &Samples,
    findings: &mut Findings,
    seed: u64,
    ends_at: Instant,
    interrupted: CancellationToken,
) -> Result<()> {
    let looks = world.looks()?;
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let outcomes = Outcomes::follow(&world.fleet.bus);
    let mut beside = tokio::task::JoinSet::new();
    beside.spawn(record.clone().listen(outcomes, tell));
    beside.spawn(look::check_words(looks.clone(), record.clone(), told));
    beside.spawn(samples.clone().take());
    for look in &looks {
        beside.spawn(look::watch(look.clone(), record.clone()));
    }
    let promoter = Promoter::new(world.means()?, Chance::new(seed, "releases"), record.clone());
    let chances = [Chance::new(seed, "hosts"), Chance::new(seed, "parts")];
    let (record, samples) = (record.clone(), samples.clone());
    let mut run = Run { world, record, samples, findings, promoter, chances, looks, ends_at, interrupted };
    run.go().await
}

/// What is judged at the end alone, and once.
fn judge_the_whole(world: &mut World, record: &Record, samples: &Samples, findings: &mut Findings) {
    let witnessed = record.lock().words.clone();
    let found = Finding { checked: witnessed.checked, violations: witnessed.violations };
    findings.add("`succeeded` is true on every engine when it is said", found);
    let lives = samples.lives();
    let judged: Vec<_> = lives.iter().filter(|life| life.is_judged()).collect();
    let grown = judged.iter().flat_map(|life| life.grown()).collect();
    findings
        .add("memory, open files and threads do not grow", Finding { checked: judged.len() as u64, violations: grown });
    let mut happened = Finding::default();
    let faults = record.lock().faults.clone();
    for kind in Kind::ALL.into_iter().filter(|_| faults.len() >= FAULTS_FOR_EACH_KIND) {
        let has = faults.iter().any(|fault| fault.kind == kind && fault.fired);
        happened.check(has, || format!("{kind}: it never happened"));
    }
    findings.add("every kind of fault has happened", happened);
    let mut running = Finding::default();
    running.check(Process::is_running(&mut world.audit), || "landfall-audit has ended by itself".to_owned());
    for host in &mut world.fleet.hosts {
        let name = host.name.clone();
        running.check(host.executor.is_running(), || format!("the executor of {name} does not run at the end"));
    }
    findings.add("every program still runs at the end", running);
}

/// Where everything is that tells more.
fn keep(world: &World, record: &Record, samples: &Samples, seed: u64, wanted: Option<PathBuf>) -> Result<PathBuf> {
    let unasked = || std::env::temp_dir().join(format!("landfall-soak-{seed}-{}", std::process::id()));
    let folder = wanted.unwrap_or_else(unasked);
    world.keep(&folder)?;
    std::fs::write(folder.join("outcomes.txt"), events(record, usize::MAX))?;
    let inner = record.lock();
    let faults: Vec<String> =
        inner.faults.iter().map(|fault| format!("{} {} (happened: {})", fault.at, fault.what, fault.fired)).collect();
    std::fs::write(folder.join("faults.txt"), faults.join("\n"))?;
    let samples: String = samples.lives().iter().map(Life::listed).collect();
    std::fs::write(folder.join("samples.csv"), format!("process,pid,resident,anonymous,files,threads\n{samples}"))?;
    Ok(folder)
}

fn events(record: &Record, most: usize) -> String {
    let inner = record.lock();
    let skipped = inner.heard.len().saturating_sub(most);
    let line = |published: &landfall_tests::outcomes::Published<landfall_schema::outcome::Outcome>| {
        let outcome = &published.data;
        let reason = outcome.reason.as_ref().map(|reason| format!(" [{}] {}", reason.code.as_str(), reason.message));
        let (at, reason) = (published.message.published_at, reason.unwrap_or_default());
        format!("{at} {} {} {} {}{reason}", outcome.host, outcome.counter, outcome.kind, outcome.message)
    };
    inner.heard.iter().skip(skipped).map(line).collect::<Vec<_>>().join("\n")
}

fn tell_failure(
    seed: u64,
    minutes: u64,
    record: &Record,
    findings: &Findings,
    result: Result<()>,
    kept: Result<PathBuf>,
) {
    eprintln!("\nthe last that was said:\n{}\n", events(record, LAST_EVENTS));
    for (oracle, violation) in findings.violations() {
        eprintln!("error: {oracle}: {violation}");
    }
    if let Err(error) = result {
        eprintln!("error: {error:#}");
    }
    match kept {
        Ok(folder) => eprintln!("logs, journals, the ledger, outcomes and faults: {}", folder.display()),
        Err(error) => eprintln!("logs were not kept: {error:#}"),
    }
    eprintln!("hint: make soak MINUTES={minutes} SEED={seed}");
}
