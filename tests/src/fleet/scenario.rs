//! One environment on real hosts, of a test's own: a bus that the hosts reach, signing keys, executors, an application; and its end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use landfall_bus::Bus;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::SigningKey;
use tempfile::TempDir;

use crate::cli::{Cli, Run};
use crate::executor::{ExecutorProcess, Settings};
use crate::fleet::Fleet;
use crate::fleet::cut::Whom;
use crate::fleet::host::{FleetHost, RECONNECT_LIMIT};
use crate::fleet::lease::{Lease, Use, lease};
use crate::image::AppImage;
use crate::lab::Lab;
use crate::names;
use crate::nats::NatsServer;
use crate::outcomes::Outcomes;
use crate::process::until;
use crate::promotion::{Draft, Message};
use crate::registry::{PushedImage, Registry};
use crate::scenario::{APP, ENV, PRESENCE_LIMIT, beat, restrict};
use crate::stack::Stack;

pub struct FleetScenario {
    pub lab: Lab,
    pub env: EnvName,
    pub app: AppName,
    pub nats: NatsServer,
    pub bus: Bus,
    pub promoter: SigningKey,
    pub registry: Registry,
    pub outcomes: Outcomes,
    /// `h1` is the first.
    pub hosts: Vec<FleetHost>,
    /// The repository of this test's images, without the registry.
    pub repository: String,
    /// The application's compose project, on every host.
    pub project: String,
    folder: TempDir,
}

impl FleetScenario {
    /// Hosts `h1` and so on with running executors, and nothing deployed yet.
    ///
    /// # Errors
    /// When the fleet has fewer hosts, or a part of it does not work.
    pub async fn start(hosts: usize, kind: Use) -> Result<Self> {
        Self::start_with(hosts, kind, |_, _| {}).await
    }

    /// As [`Self::start`]; `change` may change each host's settings, by its number from 1, before its executor starts.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(hosts: usize, kind: Use, change: impl Fn(usize, &mut Settings)) -> Result<Self> {
        let lab = Lab::from_env()?;
        let leases = lease(&Fleet::from_env()?, hosts, kind).await?;
        let nats = NatsServer::start_at_gateway(&lab).await?;
        let bus = nats.connect().await?;
        bus.apply().await?;
        let mut scenario = Self {
            env: EnvName::new(ENV)?,
            app: AppName::new(APP)?,
            promoter: SigningKey::generate(),
            registry: Registry::gateway(&lab)?,
            outcomes: Outcomes::follow(&bus),
            hosts: Vec::new(),
            repository: names::unique("shop"),
            project: names::unique("landfall-test"),
            folder: TempDir::with_prefix("landfall-test-")?,
            nats,
            bus,
            lab,
        };
        for (index, lease) in leases.into_iter().enumerate() {
            scenario.add_host(index + 1, lease, |settings| change(index + 1, settings)).await?;
        }
        for number in scenario.numbers() {
            scenario.is_present(number, 0).await?;
        }
        Ok(scenario)
    }

    /// As [`Self::start`], with `v1` deployed and serving on every host.
    ///
    /// # Errors
    /// As [`Self::start`], and when the deploy fails.
    pub async fn with_v1(hosts: usize, kind: Use) -> Result<(Self, PushedImage)> {
        let mut scenario = Self::start(hosts, kind).await?;
        let v1 = scenario.push("v1", AppImage::version("v1")).await?;
        scenario.succeed(&Stack::app(&v1)).await?;
        scenario.assert_runs_everywhere(&v1, "v1").await?;
        Ok((scenario, v1))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn add_host(&mut self, number: usize, lease: Lease, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let name = format!("h{number}");
        let folder = self.folder.path().join(&name);
        let directory = folder.join("stack");
        std::fs::create_dir_all(&directory)?;
        let port = lease.machine.free_port().await?;
        std::fs::write(directory.join(".env"), format!("HTTP_PORT={port}\n"))?;
        let mut settings = Settings {
            program: "landfall-executor",
            host: name.clone(),
            env: self.env.to_string(),
            bus_url: self.nats.url(),
            bus_lines: String::new(),
            docker_host: lease.machine.docker_host.clone(),
            min_free_disk: "1 MB".to_owned(),
            keep_releases: 3,
            trusted: vec![self.promoter.public().to_string()],
            admins: Vec::new(),
            allowed_registries: Vec::new(),
            apps: vec![(self.app.to_string(), directory.clone(), self.project.clone())],
            labels: BTreeMap::new(),
            network: Some(lease.machine.namespace.clone()),
            drift: "report".to_owned(),
            sections: String::new(),
            environment: BTreeMap::new(),
        };
        change(&mut settings);
        let mut executor = ExecutorProcess::new(&folder, settings);
        executor.start()?;
        let nats = Whom::Server { address: self.lab.gateway.parse()?, port: self.nats.port() };
        let project = self.project.clone();
        let (name, cuts) = (HostName::new(&name)?, Vec::new());
        self.hosts.push(FleetHost { name, project, directory, port, executor, lease, nats, cuts });
        Ok(())
    }

    /// Starts the executor of a host again that was ended, and waits until it says that it is there.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_executor(&mut self, number: usize) -> Result<()> {
        let FleetHost { name, executor, .. } = &mut self.hosts[number - 1];
        let before = beat(&self.bus, &EnvName::new(&executor.settings.env)?, name).await?;
        executor.start()?;
        self.is_present(number, before).await
    }

    async fn is_present(&mut self, number: usize, before: u64) -> Result<()> {
        let bus = &self.bus;
        let FleetHost { name, executor, .. } = &mut self.hosts[number - 1];
        let env = EnvName::new(&executor.settings.env)?;
        until(&format!("the executor of {name} is present"), PRESENCE_LIMIT, async || {
            ensure!(executor.is_running(), "it ended");
            ensure!(beat(bus, &env, name).await? > before, "no new sign of life");
            Ok(())
        })
        .await
        .with_context(|| executor.log())
    }

    /// The host of this number, `1` for `h1`.
    pub fn host(&mut self, number: usize) -> &mut FleetHost {
        &mut self.hosts[number - 1]
    }

    /// Pushes an image of the application.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, tag: &str, image: AppImage) -> Result<PushedImage> {
        self.registry.push(&self.repository, tag, &image).await
    }

    /// The number of the newest promotion on the bus, whoever made it; 0 when there is none.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn newest(&self) -> Result<u64> {
        let Some(message) = self.bus.latest_promotion(&self.env, &self.app).await? else { return Ok(0) };
        let event: CloudEvent<Promotion> = serde_json::from_slice(&message.body)?;
        Ok(event.data.counter.0)
    }

    /// The next promotion of this stack, for all hosts in one wave; every part of it may be changed.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn draft(&self, stack: &Stack) -> Result<Draft> {
        let hosts = self.hosts.iter().map(|host| host.name.clone()).collect();
        Draft::of(stack, &self.env, &self.app, hosts, self.newest().await? + 1)
    }

    /// Stores the bundle, signs and publishes. Returns what was published.
    ///
    /// # Errors
    /// When the bus does not take it.
    pub async fn publish(&self, draft: &Draft) -> Result<Message> {
        draft.store_bundle(&self.bus).await?;
        let message = draft.signed(&self.promoter)?;
        message.publish(&self.bus).await?;
        Ok(message)
    }

    /// Promotes the stack to all hosts and returns its number.
    ///
    /// # Errors
    /// When the bus does not take it.
    pub async fn promote(&self, stack: &Stack) -> Result<u64> {
        let draft = self.draft(stack).await?;
        self.publish(&draft).await?;
        Ok(draft.counter())
    }

    /// Runs `landfall promote shop --release RELEASE` with this stack and these further arguments.
    ///
    /// # Errors
    /// When the program does not end in time.
    pub async fn promote_by_cli(&self, stack: &Stack, release: &str, arguments: &[&str]) -> Result<Run> {
        let cli = self.cli()?;
        let file = self.compose_file(release, stack)?;
        let mut words = vec!["promote", self.app.as_str(), "--release", release, "--file", &file];
        words.extend(["--insecure-registry", &self.registry.address]);
        words.extend(arguments);
        cli.run(&words).await
    }

    /// The terminal outcome of a promotion on a host.
    ///
    /// # Errors
    /// When there is none in time; the error shows what there was, and the executor's log.
    pub async fn terminal(&mut self, number: usize, counter: u64) -> Result<Outcome> {
        self.published(number, counter, "a terminal outcome", OutcomeKind::is_terminal).await
    }

    /// The first outcome of this kind of a promotion on a host.
    ///
    /// # Errors
    /// As [`Self::terminal`].
    pub async fn reaches(&mut self, number: usize, counter: u64, kind: OutcomeKind) -> Result<Outcome> {
        self.published(number, counter, &kind.to_string(), |found| found == kind).await
    }

    async fn published(
        &mut self,
        number: usize,
        counter: u64,
        what: &str,
        is_it: impl Fn(OutcomeKind) -> bool,
    ) -> Result<Outcome> {
        let FleetHost { name, executor, .. } = &mut self.hosts[number - 1];
        let is_it = |outcome: &Outcome| outcome.host == *name && outcome.counter.0 == counter && is_it(outcome.kind);
        let what = format!("{what} of #{counter} on {name}");
        let waited = tokio::select! {
            waited = self.outcomes.wait(&what, RECONNECT_LIMIT, is_it) => waited,
            ended = executor.ends_by_itself() => ended,
        };
        waited.with_context(|| format!("the executor's log:\n{}\n", executor.log()))
    }

    /// The last word about a whole rollout, whichever host says it.
    ///
    /// # Errors
    /// When there is none in time; the error shows what there was, and the executors' logs.
    pub async fn word(&mut self, counter: u64) -> Result<Outcome> {
        let ended = |outcome: &Outcome| {
            outcome.counter.0 == counter && outcome.rollout.as_ref().is_some_and(|state| state.word().is_some())
        };
        let waited = self.outcomes.wait(&format!("the last word about #{counter}"), RECONNECT_LIMIT, ended).await;
        waited.with_context(|| {
            let logs = self.hosts.iter().map(|host| format!("{}:\n{}", host.name, host.executor.log()));
            logs.collect::<Vec<_>>().join("\n")
        })
    }

    /// How a promotion ended on each of these hosts, by their numbers.
    ///
    /// # Errors
    /// As [`Self::terminal`].
    pub async fn terminals(&mut self, numbers: &[usize], counter: u64) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for &number in numbers {
            outcomes.push(self.terminal(number, counter).await?);
        }
        Ok(outcomes)
    }

    /// Promotes the stack; it must succeed on every host. Returns its number.
    ///
    /// # Errors
    /// When it does not.
    pub async fn succeed(&mut self, stack: &Stack) -> Result<u64> {
        let counter = self.promote(stack).await?;
        self.assert_succeeded(&self.numbers(), counter).await?;
        Ok(counter)
    }

    /// A promotion succeeded on these hosts, by their own word.
    ///
    /// # Errors
    /// When it did not.
    pub async fn assert_succeeded(&mut self, numbers: &[usize], counter: u64) -> Result<()> {
        for outcome in self.terminals(numbers, counter).await? {
            ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "the deploy ended as {outcome:#?}");
        }
        Ok(())
    }

    /// On every host exactly this digest serves, by the engine's word, and `version` by the application's.
    ///
    /// # Errors
    /// When that is not so.
    pub async fn assert_runs_everywhere(&self, image: &PushedImage, version: &str) -> Result<()> {
        for host in &self.hosts {
            host.assert_runs(image, version).await?;
        }
        Ok(())
    }

    /// `1` to the last host's number.
    pub fn numbers(&self) -> Vec<usize> {
        (1..=self.hosts.len()).collect()
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

    /// The CLI, set up for this environment as a CI job would. It runs on this machine, outside of the hosts.
    ///
    /// # Errors
    /// When its home cannot be made.
    pub fn cli(&self) -> Result<Cli> {
        let home = self.folder.path().join("cli");
        std::fs::create_dir_all(home.join("docker"))?;
        let key = home.join("promote.nk");
        if !key.exists() {
            std::fs::write(&key, format!("{}\n", self.promoter.seed()?))?;
            restrict(&key)?;
        }
        let cli = Cli::new(&home).variable("NATS_URL", &self.nats.url()).variable("LANDFALL_ENV", self.env.as_str());
        Ok(cli.variable("LANDFALL_SIGNING_KEY_FILE", &key.to_string_lossy()))
    }
}

impl Drop for FleetScenario {
    fn drop(&mut self) {
        let repository = &self.repository;
        std::thread::scope(|scope| {
            for host in &mut self.hosts {
                scope.spawn(move || {
                    if let Err(error) = host.clean_up(repository) {
                        eprintln!("the clean-up of {} failed: {error:#}", host.name);
                    }
                });
            }
        });
        for host in &self.hosts {
            // Shown by the test runner when the test failed.
            eprintln!("--- log of {}:\n{}", host.name, host.executor.log());
        }
    }
}
