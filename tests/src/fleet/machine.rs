//! One Docker host of the fleet, and what can happen to it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::fleet::cut::Cut;
use crate::process::POLL_INTERVAL;
use crate::{http, names};

const KILL_LIMIT: Duration = Duration::from_secs(10);
/// An engine that ends in good order stops its containers first.
const TERMINATE_LIMIT: Duration = Duration::from_secs(60);
const FLEET_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/fleet");

#[derive(Debug, Clone)]
pub struct Machine {
    pub(crate) fleet: PathBuf,
    /// As the fleet's script calls it; a test calls its hosts otherwise.
    pub name: String,
    /// On the network that the fleet shares.
    pub address: Ipv4Addr,
    /// Its network namespace.
    pub namespace: PathBuf,
    pub docker_host: String,
    pub(crate) engine_pid: PathBuf,
}

impl Machine {
    pub fn engine(&self) -> Engine {
        Engine::at(&self.docker_host)
    }

    /// Does this on the machine's network.
    ///
    /// # Errors
    /// When the machine is gone, and whatever `work` fails with.
    pub async fn on_network<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let namespace = File::open(&self.namespace).with_context(|| format!("the network of {}", self.name))?;
        let (tell, told) = oneshot::channel();
        // A thread of its own: one that has entered a network never comes back.
        std::thread::spawn(move || {
            let done = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into).and_then(|()| work());
            let _ = tell.send(done);
        });
        told.await.context("the work on the machine's network panicked")?
    }

    /// What `GET http://127.0.0.1:<port><path>` answers on this machine.
    ///
    /// # Errors
    /// When nobody answers in time, or the answer is no 200.
    pub async fn get(&self, port: u16, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.on_network(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(http::get(port, &path))
        })
        .await
    }

    /// A port on which nobody listens on this machine, and that no other test is given.
    ///
    /// # Errors
    /// When there is none.
    pub async fn free_port(&self) -> Result<u16> {
        self.on_network(|| {
            let port = names::free_port()?;
            TcpListener::bind(("127.0.0.1", port))?;
            Ok(port)
        })
        .await
    }

    /// # Errors
    /// When the firewall does not take it.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        cut.rules().iter().try_for_each(|rule| self.firewall("-A", rule))
    }

    /// # Errors
    /// When this machine is not cut off in this way.
    pub fn uncut(&self, cut: Cut) -> Result<()> {
        cut.rules().iter().try_for_each(|rule| self.firewall("-D", rule))
    }

    /// Breaks every connection with a server elsewhere, at both ends, as a long absence does; a short one they all survive.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn break_connections(&self, server: Ipv4Addr, port: u16) -> Result<()> {
        let Self { address, .. } = self;
        let here = format!("ss -K dst {server} dport = {port}");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display())).arg("--").args(here.split(' '));
        let there = format!("ss -K src {server} sport = {port} dst {address}");
        let mut words = there.split(' ');
        let mut other = Command::new(words.next().unwrap_or_default());
        other.args(words);
        for mut command in [command, other] {
            let output = command.output().with_context(|| format!("{command:?}"))?;
            ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn firewall(&self, action: &str, rule: &str) -> Result<()> {
        self.iptables(&format!("{action} {rule}"))
    }

    fn iptables(&self, words: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display())).args(["--", "iptables", "-w", "-t", "mangle"]);
        let output = command.args(words.split(' ')).output().context("nsenter")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "iptables {words} on {}: {errors}", self.name);
        Ok(())
    }

    /// The engine answers nobody any more; its containers run on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_engine(&self) -> Result<()> {
        self.signal_engine(Signal::SIGSTOP)
    }

    /// The contrary of [`Self::stop_engine`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn continue_engine(&self) -> Result<()> {
        self.signal_engine(Signal::SIGCONT)
    }

    /// The engine dies; its containers run on until it is started again, which ends them.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn kill_engine(&self) -> Result<()> {
        self.end_engine(Signal::SIGKILL, KILL_LIMIT)
    }

    /// Ends the engine in good order.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn terminate_engine(&self) -> Result<()> {
        self.end_engine(Signal::SIGTERM, TERMINATE_LIMIT)
    }

    fn end_engine(&self, signal: Signal, limit: Duration) -> Result<()> {
        self.signal_engine(signal)?;
        let deadline = Instant::now() + limit;
        while self.engine_is_alive()? {
            ensure!(Instant::now() < deadline, "the engine of {} got {signal} and does not end", self.name);
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Starts the engine again that has ended, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_engine(&self) -> Result<()> {
        let output = Command::new(FLEET_SCRIPT).arg("start-engine").arg(&self.fleet).arg(&self.name).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the engine of {} did not start: {errors}", self.name);
        Ok(())
    }

    /// Takes away what a test has done to the machine.
    ///
    /// # Errors
    /// When the engine cannot be brought back.
    pub fn restore(&self) -> Result<()> {
        self.iptables("-F")?;
        if self.has_small_disk()? {
            if self.engine_is_alive()? {
                self.kill_engine()?;
            }
            self.on_mounts(&["umount", "--lazy"])?;
        }
        if self.engine_is_alive()? { self.continue_engine() } else { self.start_engine() }
    }

    /// Starts the engine anew with nothing of what it had, on a disk of this size; [`Self::restore`] takes it away again.
    ///
    /// # Errors
    /// When the engine does not come up.
    pub fn put_engine_on_small_disk(&self, size_mb: u32) -> Result<()> {
        self.kill_engine()?;
        self.on_mounts(&["mount", "-t", "tmpfs", "-o", &format!("size={size_mb}m"), "tmpfs"])?;
        self.start_engine()
    }

    /// Runs the command with the folder of the engine's data, where the machine sees its own mounts.
    fn on_mounts(&self, words: &[&str]) -> Result<()> {
        let holder = std::fs::read_to_string(self.fleet.join(format!("{}.pid", self.name)))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", holder.trim(), "--mount", "--"]).args(words).arg(self.engine_data());
        let output = command.output().context("nsenter")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn engine_data(&self) -> PathBuf {
        self.fleet.join(&self.name).join("data")
    }

    fn has_small_disk(&self) -> Result<bool> {
        let holder = std::fs::read_to_string(self.fleet.join(format!("{}.pid", self.name)))?;
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", holder.trim()))?;
        let data = self.engine_data().to_string_lossy().into_owned();
        Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&data)))
    }

    fn signal_engine(&self, signal: Signal) -> Result<()> {
        let pid = self.engine_process()?;
        ensure!(self.is_ours(pid), "process {pid} is no engine of this fleet");
        kill(Pid::from_raw(pid), signal).with_context(|| format!("the engine of {} got no {signal}", self.name))
    }

    fn engine_is_alive(&self) -> Result<bool> {
        let pid = self.engine_process()?;
        // What was killed may wait as a zombie for whoever inherited it; its environment is gone then.
        Ok(self.is_ours(pid))
    }

    fn engine_process(&self) -> Result<i32> {
        let text = std::fs::read_to_string(&self.engine_pid)?;
        text.trim().parse().with_context(|| format!("{} has no process id", self.engine_pid.display()))
    }

    /// Whether the process carries the mark of this fleet, so that a number which was given away again harms nobody.
    fn is_ours(&self, pid: i32) -> bool {
        let mark = format!("LANDFALL_LAB_OWNER={}", self.fleet.display());
        let environment = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    }

    /// Whether the engine answers, with a deadline: a stopped one never does.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&self) -> Result<()> {
        match Command::new("timeout").args(["5", "docker", "-H", &self.docker_host, "version"]).output()? {
            output if output.status.success() => Ok(()),
            output => bail!("the engine of {} does not answer: {}", self.name, output.status),
        }
    }
}
