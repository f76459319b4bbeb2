//! One machine as a test uses it: the real executor on its network, an application, and what happens to both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::ids::{Digest, HostName};

use crate::engine::Engine;
use crate::executor::ExecutorProcess;
use crate::fleet::cut::{Cut, Direction, Whom};
use crate::fleet::lease::{Lease, Use};
use crate::fleet::machine::Machine;
use crate::fleet::snapshot::Snapshot;
use crate::process::until;
use crate::registry::PushedImage;
use crate::scenario::SERVE_LIMIT;

#[derive(Debug)]
pub struct FleetHost {
    /// `h1`, `h2` and so on; not always on the machine of the same name.
    pub name: HostName,
    pub project: String,
    /// Where `.env` is.
    pub directory: PathBuf,
    /// Where the application is published, at 127.0.0.1 of the machine.
    pub port: u16,
    pub executor: ExecutorProcess,
    pub(crate) lease: Lease,
    pub(crate) nats: Whom,
    pub(crate) cuts: Vec<Cut>,
}

impl FleetHost {
    pub fn machine(&self) -> &Machine {
        &self.lease.machine
    }

    pub fn engine(&self) -> Engine {
        self.machine().engine()
    }

    /// The host and the test's NATS server lose sight of each other.
    ///
    /// # Errors
    /// When the firewall does not take it.
    pub fn cut_off(&mut self) -> Result<()> {
        self.cut_off_by(Cut { from: self.nats, direction: Direction::Both })
    }

    /// As [`Self::cut_off`], for so long that the connection has broken as well. After a short absence it goes on, and the host hears
    /// of everything that it had missed.
    ///
    /// # Errors
    /// As [`Self::cut_off`].
    pub fn cut_off_for_long(&mut self) -> Result<()> {
        self.cut_off()?;
        match self.nats {
            Whom::Server { address, port } => self.machine().break_connections(address, port),
            Whom::Everyone => Ok(()),
        }
    }

    /// The host hears the bus no more, or is not heard any more.
    ///
    /// # Errors
    /// As [`Self::cut_off`].
    pub fn cut_off_one_way(&mut self, direction: Direction) -> Result<()> {
        self.cut_off_by(Cut { from: self.nats, direction })
    }

    /// The host and its containers lose all the world: bus, registry and database.
    ///
    /// # Errors
    /// As [`Self::cut_off`], and when the test shares the machine.
    pub fn cut_off_from_everything(&mut self) -> Result<()> {
        self.cut_off_by(Cut { from: Whom::Everyone, direction: Direction::Both })
    }

    /// # Errors
    /// As [`Self::cut_off`], and when the test shares the machine and the cut concerns others.
    pub fn cut_off_by(&mut self, cut: Cut) -> Result<()> {
        if cut.from != self.nats {
            self.must_be_alone()?;
        }
        self.machine().cut(cut)?;
        self.cuts.push(cut);
        Ok(())
    }

    /// Takes back every cut.
    ///
    /// # Errors
    /// When the firewall does not take it.
    pub fn reconnect(&mut self) -> Result<()> {
        while let Some(cut) = self.cuts.pop() {
            self.machine().uncut(cut)?;
        }
        Ok(())
    }

    /// Adds a line to the `.env` of the host.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.directory.join(".env");
        let text = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, format!("{text}{name}={value}\n"))?)
    }

    /// The engine answers nobody any more; its containers run on. What asks it, this harness too, hangs until [`Self::continue_engine`].
    ///
    /// # Errors
    /// When the test shares the machine.
    pub fn stop_engine(&self) -> Result<()> {
        self.must_be_alone()?;
        self.machine().stop_engine()
    }

    /// # Errors
    /// When the engine does not run.
    pub fn continue_engine(&self) -> Result<()> {
        self.machine().continue_engine()
    }

    /// The engine dies; its containers run on until [`Self::start_engine`].
    ///
    /// # Errors
    /// When the test shares the machine.
    pub fn kill_engine(&self) -> Result<()> {
        self.must_be_alone()?;
        self.machine().kill_engine()
    }

    /// Starts the engine again that was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_engine(&self) -> Result<()> {
        self.machine().start_engine()
    }

    fn must_be_alone(&self) -> Result<()> {
        ensure!(self.lease.kind == Use::Alone, "other tests use {} too: start the scenario with Use::Alone", self.name);
        Ok(())
    }

    /// Per service the digests by which the engine knows the image of its running container.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn running_digests(&self) -> Result<BTreeMap<String, Vec<Digest>>> {
        self.engine().running_digests(&self.project)
    }

    /// The ids of the application's containers, running or not, by service.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn container_ids(&self) -> Result<BTreeMap<String, String>> {
        let snapshot = self.snapshot()?;
        Ok(snapshot.containers.into_iter().map(|(service, container)| (service, container.id)).collect())
    }

    /// The application's containers as they are now; to be compared by [`Self::assert_untouched`].
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of(&self.engine(), &self.project)
    }

    /// Nothing has replaced, stopped or restarted a container since.
    ///
    /// # Errors
    /// When something has.
    pub fn assert_untouched(&self, before: &Snapshot) -> Result<()> {
        let now = self.snapshot()?;
        ensure!(now == *before, "{} was touched:\nbefore {before:#?}\nnow {now:#?}", self.name);
        Ok(())
    }

    /// What the application answers on the host.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub async fn serving(&self) -> Result<String> {
        self.machine().get(self.port, "/").await
    }

    /// The application answers with this version.
    ///
    /// # Errors
    /// When it does not.
    pub async fn assert_serves(&self, version: &str) -> Result<()> {
        until(&format!("{} serves {version}", self.name), SERVE_LIMIT, async || {
            let body = self.serving().await?;
            ensure!(body == version, "it serves {body}");
            Ok(())
        })
        .await
    }

    /// Exactly this digest serves the application, by the engine's word, and `version` by its own.
    ///
    /// # Errors
    /// When that is not so.
    pub async fn assert_runs(&self, image: &PushedImage, version: &str) -> Result<()> {
        self.assert_serves(version).await?;
        let running = self.running_digests()?;
        let digests = running.get("app").with_context(|| format!("no container of app runs on {}", self.name))?;
        ensure!(digests.contains(&image.digest), "{digests:?} runs on {}, expected {}", self.name, image.digest);
        Ok(())
    }

    /// Nothing of the application is on the host.
    ///
    /// # Errors
    /// When there is something.
    pub fn assert_runs_nothing(&self) -> Result<()> {
        let ids = self.container_ids()?;
        ensure!(ids.is_empty(), "{} has containers: {ids:?}", self.name);
        Ok(())
    }

    /// Ends everything of this test on the machine.
    pub(crate) fn clean_up(&mut self, images: &str) -> Result<()> {
        self.executor.kill();
        self.reconnect()?;
        if self.lease.kind == Use::Alone {
            self.machine().restore()?;
        }
        let engine = self.engine();
        engine.remove_project(&self.project)?;
        engine.remove_images(&format!("{images}*"))
    }
}

/// A deploy on a host that was just connected again may begin late: the sender's pauses grow with the absence, what the server has
/// sent into the void comes again after 30 s, and the sweep comes once a minute.
pub const RECONNECT_LIMIT: Duration = Duration::from_secs(120);
