//! The real `landfall-executor` as a child process, with a configuration of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::lab::program;
use crate::process::{Process, tail, until};

/// Between two looks at whether the executor still runs; outcomes that it published before are read first.
const DEATH_POLL_INTERVAL: Duration = Duration::from_millis(500);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What goes into `executor.toml`; every part may be changed before a start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which build of the executor: the one that is shipped, or the one with failpoints.
    pub program: &'static str,
    pub host: String,
    pub env: String,
    pub bus_url: String,
    /// Further lines of the section about the bus.
    pub bus_lines: String,
    pub docker_host: String,
    pub min_free_disk: String,
    pub keep_releases: u32,
    pub trusted: Vec<String>,
    /// Whose policies and freezes are believed.
    pub admins: Vec<String>,
    pub allowed_registries: Vec<String>,
    /// Application, stack directory, project.
    pub apps: Vec<(String, PathBuf, String)>,
    /// For selecting hosts.
    pub labels: BTreeMap<String, String>,
    /// The network namespace in which it runs; where it is not said, this machine's.
    pub network: Option<PathBuf>,
    /// What is done about drift of every application.
    pub drift: String,
    /// Further sections of the file.
    pub sections: String,
    /// Further environment of the process.
    pub environment: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct ExecutorProcess {
    folder: PathBuf,
    pub settings: Settings,
    process: Option<Process>,
}

impl ExecutorProcess {
    /// An executor that is not running yet; everything it writes is in `folder`.
    pub fn new(folder: &Path, settings: Settings) -> Self {
        Self { folder: folder.to_owned(), settings, process: None }
    }

    /// Starts it with the settings as they are now.
    ///
    /// # Errors
    /// When it runs already or the program is not built.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.settings.host);
        self.write_config()?;
        let mut command = self.command()?;
        self.process = Some(Process::start(&self.settings.host, &mut command, &self.log_path())?);
        Ok(())
    }

    /// Waits until a process that was started has ended without being told to.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn ends_within(&mut self, limit: Duration) -> Result<()> {
        until("the executor ends", limit, async || {
            ensure!(!self.is_running(), "it runs");
            Ok(())
        })
        .await
    }

    /// Runs `landfall-executor --check` to its end.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn check(&self) -> Result<Output> {
        self.write_config()?;
        Ok(self.command()?.arg("--check").output()?)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the executor does not run")?;
        process.terminate(STOP_LIMIT).await
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Never returns while the executor is running, or is stopped on purpose.
    ///
    /// # Errors
    /// When the process ends: waiting for its words is of no use then.
    pub async fn ends_by_itself<T>(&mut self) -> Result<T> {
        let Some(process) = &mut self.process else { return std::future::pending().await };
        while process.is_running() {
            tokio::time::sleep(DEATH_POLL_INTERVAL).await;
        }
        anyhow::bail!("the executor has ended")
    }

    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the executor does not run")?.signal(signal)
    }

    pub fn log(&self) -> String {
        tail(&self.log_path())
    }

    /// All that it ever wrote to its log.
    ///
    /// # Errors
    /// When there is no log.
    pub fn whole_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.log_path())?)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("executor.log")
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join("executor.toml")
    }

    fn command(&self) -> Result<Command> {
        let program = program(self.settings.program)?;
        let mut command = match &self.settings.network {
            // It becomes the program: the child's id is the executor's.
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .arg("--config")
            .arg(self.config_path())
            .env_remove("RUST_LOG")
            .env("HOME", &self.folder)
            .env("DOCKER_CONFIG", self.folder.join("docker"))
            .envs(&self.settings.environment);
        Ok(command)
    }

    fn write_config(&self) -> Result<()> {
        let Settings { host, env, bus_url, docker_host, min_free_disk, keep_releases, .. } = &self.settings;
        let state_dir = self.state_dir();
        let mut text = String::new();
        writeln!(text, "host = {host:?}\nenv = {env:?}\nstate_dir = {state_dir:?}\nkeep_releases = {keep_releases}")?;
        if !self.settings.allowed_registries.is_empty() {
            writeln!(text, "allowed_registries = {:?}", self.settings.allowed_registries)?;
        }
        if !self.settings.labels.is_empty() {
            writeln!(text, "[labels]")?;
            for (label, value) in &self.settings.labels {
                writeln!(text, "{label:?} = {value:?}")?;
            }
        }
        writeln!(text, "[bus]\nurl = {bus_url:?}\n{}", self.settings.bus_lines)?;
        writeln!(text, "[docker]\nhost = {docker_host:?}\nmin_free_disk = {min_free_disk:?}")?;
        writeln!(text, "[trust]\npromote = {:?}\nadmin = {:?}", self.settings.trusted, self.settings.admins)?;
        for (app, directory, project) in &self.settings.apps {
            writeln!(text, "[apps.{app}]\ndirectory = {directory:?}\nproject = {project:?}")?;
            writeln!(text, "drift = {:?}", self.settings.drift)?;
        }
        writeln!(text, "{}", self.settings.sections)?;
        writeln!(text, "[telemetry]\nlog_filter = \"info,landfall_executor=debug\"")?;
        std::fs::create_dir_all(self.folder.join("docker"))?;
        Ok(std::fs::write(self.config_path(), text)?)
    }
}
