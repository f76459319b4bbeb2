//! One environment of a test's own: a bus, signing keys, hosts with their executors, an application; and its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_bus::Bus;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::signature::SigningKey;
use tempfile::TempDir;

use crate::cli::Cli;
use crate::engine::Engine;
use crate::executor::{ExecutorProcess, Settings};
use crate::http;
use crate::image::AppImage;
use crate::lab::Lab;
use crate::names;
use crate::nats::NatsServer;
use crate::outcomes::Outcomes;
use crate::process::until;
use crate::promotion::{Draft, Message};
use crate::registry::{PushedImage, Registry};
use crate::stack::Stack;

/// Time for a deploy of a test's small images.
pub const DEPLOY_LIMIT: Duration = Duration::from_secs(45);
pub(crate) const PRESENCE_LIMIT: Duration = Duration::from_secs(15);
pub(crate) const SERVE_LIMIT: Duration = Duration::from_secs(2);

pub const ENV: &str = "test";
pub const APP: &str = "shop";

/// One Docker host: its executor, and the stack's directory.
#[derive(Debug)]
pub struct Host {
    pub name: HostName,
    pub project: String,
    /// Where `.env` is.
    pub directory: PathBuf,
    /// Where the application is published.
    pub port: u16,
    pub executor: ExecutorProcess,
}

pub struct Scenario {
    pub lab: Lab,
    pub env: EnvName,
    pub app: AppName,
    pub nats: NatsServer,
    pub bus: Bus,
    pub promoter: SigningKey,
    pub registry: Registry,
    pub engine: Engine,
    pub outcomes: Outcomes,
    pub hosts: Vec<Host>,
    /// How often its limits a test waits that drives many executors at a time.
    pub patience: u32,
    /// The repository of this test's images, without the registry.
    pub repository: String,
    counter: u64,
    folder: TempDir,
}

impl Scenario {
    /// A bus with Landfall's streams, and no host yet.
    ///
    /// # Errors
    /// When a part of the lab does not work.
    pub async fn without_hosts() -> Result<Self> {
        let lab = Lab::from_env()?;
        let nats = NatsServer::start(&lab).await?;
        Self::on(lab, nats).await
    }

    /// As [`Self::without_hosts`], on this server.
    ///
    /// # Errors
    /// As [`Self::without_hosts`].
    pub async fn on(lab: Lab, nats: NatsServer) -> Result<Self> {
        let bus = nats.connect().await?;
        bus.apply().await?;
        Ok(Self {
            env: EnvName::new(ENV)?,
            app: AppName::new(APP)?,
            promoter: SigningKey::generate(),
            registry: Registry::open(&lab)?,
            engine: Engine::new(&lab),
            outcomes: Outcomes::follow(&bus),
            hosts: Vec::new(),
            patience: 1,
            repository: names::unique("shop"),
            counter: 0,
            folder: TempDir::with_prefix("landfall-test-")?,
            nats,
            bus,
            lab,
        })
    }

    /// One running host, `host-a`, on which nothing is deployed yet.
    ///
    /// # Errors
    /// When a part of the lab does not work, or the executor does not come up.
    pub async fn start() -> Result<Self> {
        let mut scenario = Self::without_hosts().await?;
        scenario.add_host("host-a", |_| {}).await?;
        Ok(scenario)
    }

    /// As [`Self::start`], with `v1` deployed and serving.
    ///
    /// # Errors
    /// As [`Self::start`], and when the deploy fails.
    pub async fn with_v1() -> Result<Self> {
        let mut scenario = Self::start().await?;
        scenario.deploy_v1().await?;
        Ok(scenario)
    }

    /// Pushes and deploys `v1` everywhere.
    ///
    /// # Errors
    /// When that does not succeed.
    pub async fn deploy_v1(&mut self) -> Result<PushedImage> {
        let image = self.push("v1", AppImage::version("v1")).await?;
        self.succeed(&Stack::app(&image)).await?;
        self.assert_serves("v1").await?;
        Ok(image)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a host and starts its executor; `change` may change its settings before.
    ///
    /// # Errors
    /// When the executor does not come up.
    pub async fn add_host(&mut self, name: &str, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let folder = self.folder.path().join(name);
        let directory = folder.join("stack");
        std::fs::create_dir_all(&directory)?;
        let port = names::free_port()?;
        std::fs::write(directory.join(".env"), format!("HTTP_PORT={port}\n"))?;
        let project = names::unique("landfall-test");
        let mut settings = Settings {
            program: "landfall-executor",
            host: name.to_owned(),
            env: self.env.to_string(),
            bus_url: self.nats.url(),
            bus_lines: String::new(),
            docker_host: self.lab.docker_host.clone(),
            min_free_disk: "1 MB".to_owned(),
            keep_releases: 3,
            trusted: vec![self.promoter.public().to_string()],
            admins: Vec::new(),
            allowed_registries: Vec::new(),
            apps: vec![(self.app.to_string(), directory.clone(), project.clone())],
            labels: std::collections::BTreeMap::new(),
            network: None,
            drift: "report".to_owned(),
            sections: String::new(),
            environment: std::collections::BTreeMap::new(),
        };
        change(&mut settings);
        let executor = ExecutorProcess::new(&folder, settings);
        self.hosts.push(Host { name: HostName::new(name)?, project, directory, port, executor });
        self.start_executor(self.hosts.len() - 1).await
    }

    /// Starts the executor of a host and waits until it says that it is there.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_executor(&mut self, host: usize) -> Result<()> {
        let bus = &self.bus;
        let limit = PRESENCE_LIMIT * self.patience;
        let Host { name, executor, .. } = &mut self.hosts[host];
        let env = &EnvName::new(executor.settings.env.clone())?;
        // Where the server was away, the test's own connection may come back later than a request waits.
        let before = until("the bus answers", limit, async || beat(bus, env, name).await).await?;
        executor.start()?;
        // One that has ended is not waited for.
        let is_up = until("the executor is present", limit, async || {
            let is_running = executor.is_running();
            ensure!(!is_running || beat(bus, env, name).await? > before, "no new sign of life");
            Ok(is_running)
        })
        .await
        .with_context(|| executor.log())?;
        ensure!(is_up, "the executor ended\n{}", executor.log());
        Ok(())
    }

    /// The only host.
    pub fn host(&mut self) -> &mut Host {
        &mut self.hosts[0]
    }

    /// Pushes an image of the application.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, tag: &str, image: AppImage) -> Result<PushedImage> {
        self.registry.push(&self.repository, tag, &image).await
    }

    /// The next promotion of this stack, for all hosts.
    ///
    /// # Errors
    /// When a name of the stack is unusable.
    pub fn draft(&mut self, stack: &Stack) -> Result<Draft> {
        self.counter += 1;
        let hosts = self.hosts.iter().map(|host| host.name.clone()).collect();
        Draft::of(stack, &self.env, &self.app, hosts, self.counter)
    }

    /// Stores the bundle, signs and publishes. Returns what was published.
    ///
    /// # Errors
    /// When the bus does not take it.
    pub async fn publish(&mut self, draft: &Draft) -> Result<Message> {
        draft.store_bundle(&self.bus).await?;
        let message = draft.signed(&self.promoter)?;
        message.publish(&self.bus).await?;
        Ok(message)
    }

    /// Promotes the stack and returns its number.
    ///
    /// # Errors
    /// When the bus does not take it.
    pub async fn promote(&mut self, stack: &Stack) -> Result<u64> {
        let draft = self.draft(stack)?;
        self.publish(&draft).await?;
        Ok(draft.counter())
    }

    /// The terminal outcome of a promotion on a host.
    ///
    /// # Errors
    /// When there is none in time; the error shows what there was, and the executor's log.
    pub async fn terminal(&mut self, host: usize, counter: u64) -> Result<Outcome> {
        self.published(host, counter, "a terminal outcome", OutcomeKind::is_terminal).await
    }

    /// The first outcome of this kind of a promotion on a host.
    ///
    /// # Errors
    /// As [`Self::terminal`].
    pub async fn reaches(&mut self, host: usize, counter: u64, kind: OutcomeKind) -> Result<Outcome> {
        self.published(host, counter, &kind.to_string(), |found| found == kind).await
    }

    async fn published(
        &mut self,
        host: usize,
        counter: u64,
        what: &str,
        is_it: impl Fn(OutcomeKind) -> bool,
    ) -> Result<Outcome> {
        let Host { name, executor, .. } = &mut self.hosts[host];
        let is_it = |outcome: &Outcome| outcome.host == *name && outcome.counter.0 == counter && is_it(outcome.kind);
        let what = format!("{what} of #{counter} on {name}");
        let waited = tokio::select! {
            waited = self.outcomes.wait(&what, DEPLOY_LIMIT * self.patience, is_it) => waited,
            ended = executor.ends_by_itself() => ended,
        };
        waited.with_context(|| format!("the executor's log:\n{}\n", executor.log()))
    }

    /// Promotes the stack and returns how it ended on the first host.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn deploy(&mut self, stack: &Stack) -> Result<Outcome> {
        let counter = self.promote(stack).await?;
        self.terminal(0, counter).await
    }

    /// Promotes the stack; it must succeed on every host. Returns the first host's terminal outcome.
    ///
    /// # Errors
    /// When it does not.
    pub async fn succeed(&mut self, stack: &Stack) -> Result<Outcome> {
        let counter = self.promote(stack).await?;
        for host in 0..self.hosts.len() {
            let outcome = self.terminal(host, counter).await?;
            let log = self.hosts[host].executor.log();
            ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "the deploy ended as {outcome:#?}\n{log}");
        }
        self.terminal(0, counter).await
    }

    /// What the application answers on the first host.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn serving(&self) -> Result<String> {
        http::get(self.hosts[0].port, "/").await
    }

    /// The application answers with this version, on every host.
    ///
    /// # Errors
    /// When it does not.
    pub async fn assert_serves(&self, version: &str) -> Result<()> {
        for host in &self.hosts {
            until(&format!("{} serves {version}", host.name), SERVE_LIMIT * self.patience, async || {
                let body = http::get(host.port, "/").await?;
                ensure!(body == version, "it serves {body}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Which container of the application serves on the first host.
    ///
    /// # Errors
    /// When none does.
    pub fn container(&self) -> Result<String> {
        self.engine.container_id(&self.hosts[0].project, "app")
    }

    /// On the first host exactly this digest serves the application, by the engine's word, and `version` by its own.
    ///
    /// # Errors
    /// When that is not so.
    pub async fn assert_runs(&self, image: &PushedImage, version: &str) -> Result<()> {
        self.assert_serves(version).await?;
        let running = self.engine.running_digests(&self.hosts[0].project)?;
        let digests = running.get("app").context("no container of app runs")?;
        ensure!(digests.contains(&image.digest), "{digests:?} runs, expected {}", image.digest);
        Ok(())
    }

    /// Writes the stack's compose file where the CLI runs; returns its name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn compose_file(&self, name: &str, stack: &Stack) -> Result<String> {
        let name = format!("{name}.yml");
        std::fs::write(self.folder.path().join("cli").join(&name), stack.text())?;
        Ok(name)
    }

    /// The CLI, set up for this environment as a CI job would.
    ///
    /// # Errors
    /// When its home cannot be made.
    pub fn cli(&self) -> Result<Cli> {
        let home = self.folder.path().join("cli");
        std::fs::create_dir_all(home.join("docker"))?;
        let key = home.join("promote.nk");
        std::fs::write(&key, format!("{}\n", self.promoter.seed()?))?;
        restrict(&key)?;
        let cli = Cli::new(&home).variable("NATS_URL", &self.nats.url()).variable("LANDFALL_ENV", self.env.as_str());
        Ok(cli
            .variable("LANDFALL_SIGNING_KEY_FILE", &key.to_string_lossy())
            .variable("DOCKER_HOST", &self.lab.docker_host))
    }
}

/// The sequence of a host's last sign of life; 0 before the first.
pub(crate) async fn beat(bus: &Bus, env: &EnvName, host: &HostName) -> Result<u64> {
    let subject = landfall_schema::subject::presence(env, host);
    let beats = bus.presence(env).await?;
    Ok(beats.iter().find(|beat| beat.subject == subject.as_str()).map_or(0, |beat| beat.sequence))
}

pub(crate) fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

impl Drop for Scenario {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.executor.kill();
            // Shown by the test runner when the test failed.
            eprintln!("--- log of {}:\n{}", host.name, host.executor.log());
        }
        for host in &self.hosts {
            if let Err(error) = self.engine.remove_project(&host.project) {
                eprintln!("the clean-up of {} failed: {error:#}", host.project);
            }
        }
        if let Err(error) = self.engine.remove_images(&format!("{}*", self.repository)) {
            eprintln!("the clean-up of images failed: {error:#}");
        }
    }
}
