//! One fault after the other on what all hosts use: the NATS server, PostgreSQL and the registry.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_tests::nats::NatsServer;
use landfall_tests::process::{POLL_INTERVAL, Process, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::{Kind, blocking, wait};
use crate::chance::Chance;
use crate::record::Record;

const KINDS: [(Kind, u64); 6] = [
    (Kind::NatsRestarted, 12),
    (Kind::NatsKilled, 14),
    (Kind::NatsAway, 16),
    (Kind::PostgresRestarted, 22),
    (Kind::PostgresAway, 16),
    (Kind::RegistryAway, 20),
];
const START_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct Parts<'a> {
    pub(crate) nats: &'a mut NatsServer,
    pub(crate) nats_address: SocketAddr,
    pub(crate) postgres: &'a Postgres,
    pub(crate) registry: &'a mut RegistryPart,
    pub(crate) chance: &'a mut Chance,
    pub(crate) record: Record,
    pub(crate) stop: CancellationToken,
}

impl Parts<'_> {
    /// Until it is stopped; everything is healed then.
    ///
    /// # Errors
    /// When something cannot be healed.
    pub(crate) async fn harm(mut self) -> Result<()> {
        loop {
            let pause = self.chance.milliseconds(3_000, 15_000);
            if !wait(&self.stop, pause).await {
                return Ok(());
            }
            let kind = self.chance.weighted(&KINDS);
            let away = match kind {
                Kind::NatsRestarted | Kind::NatsKilled | Kind::PostgresRestarted => Duration::ZERO,
                _ => self.chance.milliseconds(1_000, 15_000),
            };
            let shown = if away.is_zero() { kind.to_string() } else { format!("{kind} ({away:.1?})") };
            let fault = self.record.injected(kind, shown);
            let fired = match kind {
                Kind::NatsRestarted | Kind::NatsKilled | Kind::NatsAway => self.nats_away(kind, away).await,
                Kind::PostgresRestarted | Kind::PostgresAway => self.postgres_away(away).await,
                _ => self.registry_away(away).await,
            };
            if fired.with_context(|| kind.to_string())? {
                self.record.fired(fault);
            }
        }
    }

    async fn nats_away(&mut self, kind: Kind, away: Duration) -> Result<bool> {
        if kind == Kind::NatsKilled {
            kill(Pid::from_raw(i32::try_from(self.nats.pid()?)?), Signal::SIGKILL)?;
        }
        self.nats.down().await?;
        let gone = !answers(self.nats_address);
        wait(&self.stop, away).await;
        self.nats.up().await?;
        Ok(gone)
    }

    async fn postgres_away(&mut self, away: Duration) -> Result<bool> {
        let postgres = self.postgres.clone();
        let command_line = blocking(move || postgres.stop()).await?;
        let gone = !answers(self.postgres.address);
        wait(&self.stop, away).await;
        let postgres = self.postgres.clone();
        blocking(move || postgres.start(&command_line)).await?;
        Ok(gone)
    }

    async fn registry_away(&mut self, away: Duration) -> Result<bool> {
        self.registry.stop().await?;
        let gone = !answers(self.registry.address);
        wait(&self.stop, away).await;
        self.registry.start().await?;
        Ok(gone)
    }
}

fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok()
}

/// The laboratory's PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pub(crate) lab: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Postgres {
    /// Ends it at once, as a crash would; returns its command line.
    fn stop(&self) -> Result<Vec<String>> {
        let data = self.data();
        let pid_file = std::fs::read_to_string(data.join("postmaster.pid")).context("PostgreSQL does not run")?;
        let pid: u32 = pid_file.lines().next().context("no process id")?.trim().parse()?;
        let command_line = command_line(pid)?;
        let mut command = self.pg_ctl(&command_line)?;
        run(command.args(["stop", "--silent", "--mode", "immediate", "--pgdata"]).arg(&data))?;
        Ok(command_line)
    }

    fn start(&self, command_line: &[String]) -> Result<()> {
        let data = self.data();
        // The program and the folder are said otherwise; what is left are its settings, which have no spaces in them.
        let options =
            command_line.iter().skip(1).skip_while(|word| *word != "-c").cloned().collect::<Vec<_>>().join(" ");
        let mut command = self.pg_ctl(command_line)?;
        command.args(["start", "--silent", "--wait", "--timeout", "30", "--pgdata"]).arg(&data).arg("--log");
        run(command.arg(data.join("server.log")).arg("--options").arg(options))
    }

    fn data(&self) -> PathBuf {
        self.lab.join("postgres/data")
    }

    /// PostgreSQL refuses to run as root.
    fn pg_ctl(&self, command_line: &[String]) -> Result<Command> {
        let folder =
            command_line.first().and_then(|program| Path::new(program).parent()).context("an empty command line")?;
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(folder.join("pg_ctl")).env("LANDFALL_LAB_OWNER", &self.lab);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn command_line(pid: u32) -> Result<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| Ok(String::from_utf8(word.to_vec())?)).collect()
}

/// The registry from which the hosts pull. The one that `scripts/lab` has started is replaced by one of this run's own at the first fault.
#[derive(Debug)]
pub(crate) struct RegistryPart {
    pub(crate) lab: PathBuf,
    pub(crate) address: SocketAddr,
    command_line: Vec<String>,
    process: Option<Process>,
}

impl RegistryPart {
    pub(crate) fn new(lab: &Path, address: SocketAddr) -> Self {
        Self { lab: lab.to_owned(), address, command_line: Vec::new(), process: None }
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill();
            return Ok(());
        }
        let text = std::fs::read_to_string(self.lab.join("registry-gateway.pid"))?;
        let pid: u32 = text.trim().parse()?;
        self.command_line = command_line(pid)?;
        let mark = format!("LANDFALL_LAB_OWNER={}", self.lab.display());
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        ensure!(
            environment.split(|&byte| byte == 0).any(|one| one == mark.as_bytes()),
            "{pid} is no registry of this laboratory"
        );
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        let address = self.address;
        until("the registry is gone", START_LIMIT, async || {
            ensure!(!answers(address), "it answers");
            Ok(())
        })
        .await
    }

    async fn start(&mut self) -> Result<()> {
        let (program, arguments) =
            self.command_line.split_first().context("the registry's command line is not known")?;
        let mut command = Command::new(program);
        command.args(arguments).env("LANDFALL_LAB_OWNER", &self.lab);
        let process =
            self.process.insert(Process::start("registry", &mut command, &self.lab.join("registry-gateway.log"))?);
        let address = self.address;
        until("the registry answers", START_LIMIT, async || {
            ensure!(process.is_running(), "it ended");
            ensure!(answers(address), "not yet");
            tokio::time::sleep(POLL_INTERVAL).await;
            Ok(())
        })
        .await
    }
}
