//! One swap to a new version that the host has never seen, by the bare engine API, by Compose, and by Landfall. Every way ends when the
//! new version answers over HTTP; Landfall's ends later, with the committed outcome.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use futures_util::TryStreamExt as _;
use landfall_tests::database::Database;
use landfall_tests::fleet::machine::Machine;
use landfall_tests::http;
use landfall_tests::image::{AppImage, PORT};
use landfall_tests::lab::Lab;
use landfall_tests::names;
use landfall_tests::process::until;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const ENGINE_TIMEOUT_S: u64 = 60;

#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) bare: Vec<Duration>,
    pub(crate) compose: Vec<Duration>,
    pub(crate) landfall: Vec<Duration>,
    pub(crate) landfall_migrating: Vec<Duration>,
}

pub(crate) struct Took {
    bare: Duration,
    compose: Duration,
    landfall: Duration,
    landfall_migrating: Duration,
}

impl Samples {
    pub(crate) fn push(&mut self, took: Took) {
        self.bare.push(took.bare);
        self.compose.push(took.compose);
        self.landfall.push(took.landfall);
        self.landfall_migrating.push(took.landfall_migrating);
    }
}

/// All ways, ready to go, side by side on the same engine, each with a container and a port of its own.
pub(crate) struct Ways {
    bare: Bare,
    compose: Compose,
    landfall: Scenario,
    migrating: Scenario,
    database: Database,
}

impl Ways {
    pub(crate) async fn prepare(lab: Lab) -> Result<Self> {
        let landfall = Scenario::start().await?;
        let migrating = Scenario::start().await?;
        Ok(Self {
            bare: Bare::new(&lab)?,
            compose: Compose::new(&lab)?,
            database: Database::create(&lab).await?,
            landfall,
            migrating,
        })
    }

    pub(crate) async fn run_all(&mut self, run: usize) -> Result<Took> {
        // Each way gets an image of its own, since layers that are here already would not be pulled.
        let [bare, compose, landfall, migrating] = ["a", "b", "c", "m"].map(|way| format!("{way}{run}"));
        let image = self.landfall.push(&bare, AppImage::version(&bare)).await?;
        let bare = self.bare.swap(&image, &bare).await?;
        let image = self.landfall.push(&compose, AppImage::version(&compose)).await?;
        let compose = self.compose.swap(&image, &compose).await?;
        let image = self.landfall.push(&landfall, AppImage::version(&landfall)).await?;
        let took = promote(&mut self.landfall, &Stack::app_with(&image, READY)).await?;
        self.landfall.assert_serves(&landfall).await?;
        let image = self.migrating.push(&migrating, with_migrations(&migrating, run)).await?;
        let stack = Stack::app_with(&image, READY)
            .app_settings(&format!("migrations: {{path: /migrations, url: \"{}\"}}", self.database.url));
        let took_migrating = promote(&mut self.migrating, &stack).await?;
        self.migrating.assert_serves(&migrating).await?;
        Ok(Took { bare, compose, landfall: took, landfall_migrating: took_migrating })
    }

    pub(crate) fn executor_pid(&mut self) -> Result<u32> {
        self.landfall.host().executor.pid().context("the executor does not run")
    }
}

/// As close to the other two, which take the first answer, as the settings allow.
pub(crate) const READY: &str = "ready: {http: {port: 8080, path: /}, interval_ms: 50, passes: 1}";

/// One new migration in every version.
fn with_migrations(version: &str, run: usize) -> AppImage {
    (0..=run).fold(AppImage::version(version), |image, n| {
        image.migration(
            &format!("{:04}_step_{n}.sql", n + 1),
            &format!("CREATE TABLE step_{n} (id bigint PRIMARY KEY);"),
        )
    })
}

async fn promote(scenario: &mut Scenario, stack: &Stack) -> Result<Duration> {
    let started = Instant::now();
    scenario.succeed(stack).await?;
    Ok(started.elapsed())
}

/// `version` answers at this port of the machine, or of this one.
pub(crate) async fn answers_on(machine: Option<&Machine>, port: u16, version: &str) -> Result<()> {
    match machine {
        None => answers(port, version).await,
        Some(machine) => {
            let version = version.to_owned();
            let ask = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(answers(port, &version))
            };
            machine.on_network(ask).await
        }
    }
}

async fn answers(port: u16, version: &str) -> Result<()> {
    until(&format!("{version} answers"), ANSWER_LIMIT, async || {
        let body = http::get(port, "/").await?;
        ensure!(body == version, "it serves {body}");
        Ok(())
    })
    .await
}

/// The engine's API and nothing else: the least that any deploy must do.
pub(crate) struct Bare {
    docker: Docker,
    docker_host: String,
    machine: Option<Machine>,
    name: String,
    port: u16,
    is_running: bool,
}

impl Bare {
    fn new(lab: &Lab) -> Result<Self> {
        Self::of(lab.docker_host.clone(), None, names::free_port()?)
    }

    /// On one host of a fleet.
    pub(crate) async fn on_machine(machine: Machine) -> Result<Self> {
        let port = machine.free_port().await?;
        Self::of(machine.docker_host.clone(), Some(machine), port)
    }

    fn of(docker_host: String, machine: Option<Machine>, port: u16) -> Result<Self> {
        let docker = Docker::connect_with_unix(&docker_host, ENGINE_TIMEOUT_S, bollard::API_DEFAULT_VERSION)?;
        Ok(Self { docker, docker_host, machine, name: names::unique("landfall-bench-bare"), port, is_running: false })
    }

    pub(crate) async fn swap(&mut self, image: &PushedImage, version: &str) -> Result<Duration> {
        let reference = image.pinned().reference();
        let started = Instant::now();
        let options = CreateImageOptionsBuilder::new().from_image(&reference).build();
        self.docker.create_image(Some(options), None, None).try_collect::<Vec<_>>().await?;
        if self.is_running {
            self.docker.stop_container(&self.name, Some(StopContainerOptionsBuilder::new().t(1).build())).await?;
            self.docker.remove_container(&self.name, Some(RemoveContainerOptionsBuilder::new().build())).await?;
        }
        let options = CreateContainerOptionsBuilder::new().name(&self.name).build();
        self.docker.create_container(Some(options), self.container(reference)).await?;
        self.docker.start_container(&self.name, None::<StartContainerOptions>).await?;
        self.is_running = true;
        answers_on(self.machine.as_ref(), self.port, version).await?;
        Ok(started.elapsed())
    }

    fn container(&self, image: String) -> ContainerCreateBody {
        let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(self.port.to_string()) };
        let port = format!("{PORT}/tcp");
        ContainerCreateBody {
            image: Some(image),
            exposed_ports: Some(vec![port.clone()]),
            host_config: Some(HostConfig {
                init: Some(true),
                port_bindings: Some(HashMap::from([(port, Some(vec![binding]))])),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = Command::new("docker").args(["-H", &self.docker_host, "rm", "--force", &self.name]).output();
    }
}

/// What people type today.
struct Compose {
    file: tempfile::NamedTempFile,
    project: String,
    port: u16,
}

impl Compose {
    fn new(_lab: &Lab) -> Result<Self> {
        let file = tempfile::Builder::new().suffix(".yml").tempfile()?;
        Ok(Self { file, project: names::unique("landfall-bench-compose"), port: names::free_port()? })
    }

    async fn swap(&self, image: &PushedImage, version: &str) -> Result<Duration> {
        std::fs::write(self.file.path(), Stack::app_with(image, READY).text())?;
        let started = Instant::now();
        self.compose(&["pull", "--quiet"])?;
        self.compose(&["up", "-d", "--wait"])?;
        answers(self.port, version).await?;
        Ok(started.elapsed())
    }

    fn compose(&self, arguments: &[&str]) -> Result<()> {
        let file: PathBuf = self.file.path().into();
        let output = Command::new("docker")
            .args(["compose", "--project-name", &self.project, "--file"])
            .arg(file)
            .args(arguments)
            .env("HTTP_PORT", self.port.to_string())
            .output()?;
        ensure!(output.status.success(), "docker compose {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if let Err(error) = self.compose(&["down", "--volumes"]) {
            eprintln!("the clean-up of {} failed: {error:#}", self.project);
        }
    }
}
