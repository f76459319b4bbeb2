//! One fault after the other on the hosts: executors, engines, networks and containers. The executor of the first host is spared, so that
//! one lives for the whole run and its memory can be looked at.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_tests::fleet::cut::{Cut, Direction, Whom};
use landfall_tests::fleet::host::FleetHost;
use landfall_tests::fleet::machine::Machine;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Kind, blocking, wait};
use crate::chance::Chance;
use crate::record::Record;
use crate::samples::Samples;

const KINDS: [(Kind, u64); 10] = [
    (Kind::ExecutorKilled, 22),
    (Kind::ExecutorTerminated, 10),
    (Kind::EngineRestarted, 8),
    (Kind::EngineStopped, 10),
    (Kind::CutOff, 8),
    (Kind::CutOffDeaf, 8),
    (Kind::CutOffMute, 8),
    (Kind::CutOffFromAll, 8),
    (Kind::ContainerKilled, 9),
    (Kind::ContainerRemoved, 9),
];
/// A host that is idle says something this often at least, so a cut of this length loses a packet.
const CUT_MAX: Duration = Duration::from_secs(40);
const CUT_POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Hosts<'a> {
    pub(crate) hosts: &'a mut [FleetHost],
    pub(crate) chance: &'a mut Chance,
    pub(crate) record: Record,
    pub(crate) samples: Samples,
    pub(crate) stop: CancellationToken,
}

impl Hosts<'_> {
    /// Until it is stopped; everything is healed then.
    ///
    /// # Errors
    /// When something cannot be healed, or an executor has ended by itself.
    pub(crate) async fn harm(mut self) -> Result<()> {
        loop {
            let pause = self.chance.milliseconds(1_000, 9_000);
            if !wait(&self.stop, pause).await {
                return Ok(());
            }
            let kind = self.chance.weighted(&KINDS);
            let spared =
                usize::from(matches!(kind, Kind::ExecutorKilled | Kind::ExecutorTerminated) && self.hosts.len() > 1);
            let index = spared + self.chance.index(self.hosts.len() - spared);
            self.inject(kind, index).await.with_context(|| format!("{kind}, on {}", self.hosts[index].name))?;
            self.assert_executors_run()?;
        }
    }

    fn assert_executors_run(&mut self) -> Result<()> {
        for host in self.hosts.iter_mut() {
            ensure!(
                host.executor.is_running(),
                "the executor of {} has ended by itself:\n{}",
                host.name,
                host.executor.log()
            );
        }
        Ok(())
    }

    async fn inject(&mut self, kind: Kind, index: usize) -> Result<()> {
        match kind {
            Kind::ExecutorKilled | Kind::ExecutorTerminated => self.end_executor(kind, index).await,
            Kind::EngineRestarted | Kind::EngineStopped => self.take_engine(kind, index).await,
            Kind::CutOff => self.cut(kind, index, Direction::Both).await,
            Kind::CutOffDeaf => self.cut(kind, index, Direction::In).await,
            Kind::CutOffMute => self.cut(kind, index, Direction::Out).await,
            Kind::CutOffFromAll => self.cut(kind, index, Direction::Both).await,
            _ => self.harm_container(kind, index).await,
        }
    }

    async fn end_executor(&mut self, kind: Kind, index: usize) -> Result<()> {
        let away = self.chance.milliseconds(0, 6_000);
        let host = &mut self.hosts[index];
        let fault = self.record.injected(kind, format!("{kind}: {} for {away:.1?}", host.name));
        let pid = host.executor.pid().context("the executor does not run")?;
        self.samples.follow(host.name.as_str(), None);
        if kind == Kind::ExecutorKilled {
            host.executor.kill();
        } else {
            let status = host.executor.terminate().await?;
            ensure!(status.success(), "SIGTERM ends it with {status}:\n{}", host.executor.log());
        }
        if !Path::new(&format!("/proc/{pid}")).exists() {
            self.record.fired(fault);
        }
        wait(&self.stop, away).await;
        host.executor.start()?;
        self.samples.follow(host.name.as_str(), host.executor.pid());
        Ok(())
    }

    async fn take_engine(&mut self, kind: Kind, index: usize) -> Result<()> {
        let away = self.chance.milliseconds(500, 12_000);
        let machine = self.hosts[index].machine().clone();
        let name = self.hosts[index].name.clone();
        let fault = self.record.injected(kind, format!("{kind}: {name} for {away:.1?}"));
        let harmed = machine.clone();
        let answers = blocking(move || {
            if kind == Kind::EngineRestarted { harmed.terminate_engine() } else { harmed.stop_engine() }?;
            // A stopped one is asked for five seconds.
            Ok(harmed.ping().is_ok())
        })
        .await?;
        if !answers {
            self.record.fired(fault);
        }
        wait(&self.stop, away).await;
        blocking(move || if kind == Kind::EngineRestarted { machine.start_engine() } else { machine.continue_engine() })
            .await
    }

    /// For a while, and until at least one packet was lost.
    async fn cut(&mut self, kind: Kind, index: usize, direction: Direction) -> Result<()> {
        let away = self.chance.milliseconds(1_000, 25_000);
        let breaks = self.chance.percent(30);
        let host = &mut self.hosts[index];
        let fault = self.record.injected(kind, format!("{kind}: {} for {away:.1?}", host.name));
        match kind {
            Kind::CutOffFromAll => host.cut_off_by(Cut { from: Whom::Everyone, direction })?,
            // As an absence so long that the connection broke at both ends.
            Kind::CutOff if breaks => host.cut_off_for_long()?,
            _ => host.cut_off_one_way(direction)?,
        }
        wait(&self.stop, away).await;
        let mut waited = away;
        while lost_packets(host.machine())? == 0 && waited < CUT_MAX && wait(&self.stop, CUT_POLL_INTERVAL).await {
            waited += CUT_POLL_INTERVAL;
        }
        if lost_packets(host.machine())? > 0 {
            self.record.fired(fault);
        }
        host.reconnect()
    }

    async fn harm_container(&mut self, kind: Kind, index: usize) -> Result<()> {
        let service = if self.chance.percent(70) { "app" } else { "side" };
        let host = &self.hosts[index];
        let fault = self.record.injected(kind, format!("{kind}: {service} on {}", host.name));
        let (machine, project) = (host.machine().clone(), host.project.clone());
        if blocking(move || end_container(&machine, &project, service, kind)).await? {
            self.record.fired(fault);
        }
        Ok(())
    }
}

/// Packets that the cuts of a machine have swallowed.
fn lost_packets(machine: &Machine) -> Result<u64> {
    let mut lost = 0;
    for chain in ["PREROUTING", "POSTROUTING"] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", machine.namespace.display()));
        let output = command.args(["--", "iptables", "-w", "-t", "mangle", "-L", chain, "-v", "-x", "-n"]).output()?;
        ensure!(output.status.success(), "iptables on {}: {}", machine.name, String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(2) == Some(&"DROP") {
                lost += words[0].parse::<u64>().with_context(|| line.to_owned())?;
            }
        }
    }
    Ok(lost)
}

/// Ends the service's container as a person would; `false` when there was none, or a deploy took it away meanwhile.
fn end_container(machine: &Machine, project: &str, service: &str, kind: Kind) -> Result<bool> {
    let filter =
        [format!("label=com.docker.compose.project={project}"), format!("label=com.docker.compose.service={service}")];
    let found = docker(machine, &["ps", "--quiet", "--no-trunc", "--filter", &filter[0], "--filter", &filter[1]])?;
    let Some(id) = found.as_deref().and_then(|ids| ids.lines().next()) else { return Ok(false) };
    let words: &[&str] = if kind == Kind::ContainerKilled { &["kill", id] } else { &["rm", "--force", id] };
    if docker(machine, words)?.is_none() {
        return Ok(false);
    }
    let Some(text) = docker(machine, &["inspect", id])? else { return Ok(true) };
    let seen: Value = serde_json::from_str(&text)?;
    Ok(seen[0]["State"]["Running"] != true)
}

/// What `docker` printed; `None` when it failed, or the engine did not answer.
fn docker(machine: &Machine, words: &[&str]) -> Result<Option<String>> {
    let output = Command::new("timeout").args(["10", "docker", "-H", &machine.docker_host]).args(words).output()?;
    Ok(output.status.success().then_some(String::from_utf8(output.stdout)?))
}
