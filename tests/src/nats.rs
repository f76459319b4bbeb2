//! A NATS server with JetStream for one test: own port, own store, restartable.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_bus::{Bus, ConnectOptions};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::lab::Lab;
use crate::process::{Process, until};
use crate::{http, names};

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOOPBACK: &str = "127.0.0.1";

#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    address: String,
    port: u16,
    // Dropped in this order: the server ends before its folder goes.
    process: Option<Process>,
    folder: TempDir,
    /// Where it tells of itself over HTTP.
    monitor: Option<u16>,
    /// The only user and the password, where it asks for a login.
    login: Option<(String, String)>,
}

/// What a server has sent since its start, to all its clients.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Sent {
    #[serde(rename = "out_msgs")]
    pub messages: u64,
    #[serde(rename = "out_bytes")]
    pub bytes: u64,
}

impl NatsServer {
    /// # Errors
    /// When the server does not come up.
    pub async fn start(lab: &Lab) -> Result<Self> {
        Self::start_program(lab.nats_server.clone(), LOOPBACK, None).await
    }

    /// A server that tells what it does: [`Self::sent`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_monitored(lab: &Lab) -> Result<Self> {
        Self::start_program(lab.nats_server.clone(), LOOPBACK, Some(names::free_port()?)).await
    }

    /// A server that the hosts of a fleet reach too.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at_gateway(lab: &Lab) -> Result<Self> {
        Self::start_program(lab.nats_server.clone(), &lab.gateway, None).await
    }

    /// The oldest version that is supported.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_floor(lab: &Lab) -> Result<Self> {
        Self::start_program(lab.nats_server_floor.clone(), LOOPBACK, None).await
    }

    /// A server that lets nobody in but this user.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_login(lab: &Lab, user: &str, password: &str) -> Result<Self> {
        let mut server = Self::stopped(lab.nats_server.clone(), LOOPBACK, None)?;
        server.login = Some((user.to_owned(), password.to_owned()));
        server.up().await?;
        Ok(server)
    }

    async fn start_program(program: PathBuf, address: &str, monitor: Option<u16>) -> Result<Self> {
        let mut server = Self::stopped(program, address, monitor)?;
        server.up().await?;
        Ok(server)
    }

    fn stopped(program: PathBuf, address: &str, monitor: Option<u16>) -> Result<Self> {
        let (address, port, folder) =
            (address.to_owned(), names::free_port()?, TempDir::with_prefix("landfall-nats-")?);
        Ok(Self { program, address, port, process: None, folder, monitor, login: None })
    }

    /// Where everything that was published is kept.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.address, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// # Errors
    /// When the server does not run.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("the NATS server does not run")
    }

    /// What it has sent so far.
    ///
    /// # Errors
    /// When the server is not [monitored](Self::start_monitored), or does not answer.
    pub async fn sent(&self) -> Result<Sent> {
        let monitor = self.monitor.context("this NATS server is not monitored")?;
        Ok(serde_json::from_str(&http::get(monitor, "/varz").await?)?)
    }

    /// Starts the server again on the same port and store.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub async fn up(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the NATS server runs already");
        let folder = self.folder.path();
        let mut command = Command::new(&self.program);
        command
            .args(["-js", "-a", &self.address, "-p"])
            .arg(self.port.to_string())
            .arg("-sd")
            .arg(folder.join("store"));
        if let Some((user, password)) = &self.login {
            // In a file, since arguments are for everybody to see.
            let config = folder.join("nats.conf");
            std::fs::write(&config, format!("authorization {{ user: {user:?}, password: {password:?} }}\n"))?;
            command.arg("-c").arg(config);
        }
        if let Some(monitor) = self.monitor {
            command.arg("-m").arg(monitor.to_string());
        }
        let mut process = Process::start("nats-server", &mut command, &folder.join("log"))?;
        let (address, port) = (&self.address, self.port);
        until("the NATS server answers", START_LIMIT, async || {
            ensure!(process.is_running(), "it ended; its log:\n{}", crate::process::tail(&folder.join("log")));
            Ok(TcpStream::connect((address.as_str(), port))?)
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the server; what it stored stays.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn down(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM)?;
            process.ended(STOP_LIMIT).await?;
        }
        Ok(())
    }

    /// A copy of what a stopped server has stored.
    ///
    /// # Errors
    /// When it runs, or the copy cannot be written.
    pub fn copy_store(&self, to: &Path) -> Result<()> {
        ensure!(self.process.is_none(), "a running server's store is not copied");
        copy_folder(&self.folder.path().join("store"), to)
    }

    /// The stopped server finds this store at its next start; `None`: an empty one.
    ///
    /// # Errors
    /// When it runs, or the copy cannot be read.
    pub fn replace_store(&self, by: Option<&Path>) -> Result<()> {
        ensure!(self.process.is_none(), "a running server's store is not replaced");
        let store = self.folder.path().join("store");
        std::fs::remove_dir_all(&store)?;
        by.map_or(Ok(()), |copy| copy_folder(copy, &store))
    }

    /// A connection of the test's own.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self) -> Result<Bus> {
        let options = ConnectOptions {
            url: self.url(),
            name: "landfall-tests".to_owned(),
            user_password: self.login.clone(),
            ..ConnectOptions::default()
        };
        Ok(Bus::connect(&options).await?)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
