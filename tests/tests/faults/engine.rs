//! A Docker engine that is stopped, and one that is killed and started again, in every phase of a deploy on a real host.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::fault::Fault;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::registry::PushedImage;
use landfall_tests::stack::Stack;
use landfall_tests::tcp_proxy::{TcpProxy, Weather};

use super::{SLOW, assert_told};

/// Longer than a call to the engine may take before it counts as lost would be minutes for all phases; shorter is what people see.
const STOPPED: Duration = Duration::from_secs(7);
const DOWN: Duration = Duration::from_secs(2);
/// Slow enough for a pull to be met in the middle.
const LINE_BYTES_PER_S: u64 = 400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// SIGSTOP, and SIGCONT later.
    Stopped,
    /// SIGKILL, and started again.
    Killed,
}

/// What the host says when the phase begins, and whether the release is one that goes back.
const PHASES: [(&str, OutcomeKind, bool); 8] = [
    ("pull", OutcomeKind::ImagePulling, false),
    ("migrate", OutcomeKind::MigrationStarted, false),
    ("update", OutcomeKind::StackUpdating, false),
    ("prove", OutcomeKind::ReadinessProbing, false),
    ("smoke", OutcomeKind::SmokeStarted, false),
    ("bake", OutcomeKind::BakeStarted, false),
    ("commit", OutcomeKind::BakePassed, false),
    ("restore", OutcomeKind::RollbackStarted, true),
];

struct Host {
    fleet: FleetScenario,
    line: TcpProxy,
    migrator: PushedImage,
    serving: (PushedImage, String),
}

impl Host {
    async fn start() -> Result<Self> {
        let mut fleet = FleetScenario::start(1, Use::Alone).await?;
        let line = TcpProxy::at(&fleet.lab.gateway, &fleet.registry.address).await?;
        std::fs::create_dir_all(fleet.host(1).directory.join("data"))?;
        let script = "echo run >> /data/runs; sleep 1";
        let migrator = fleet.push("migrator", AppImage::version("m").script(script)).await?;
        let v1 = fleet.push("v1", AppImage::version("v1")).await?;
        let host = Self { fleet, line, migrator, serving: (v1.clone(), "v1".to_owned()) };
        let (mut host, stack) = (host, Stack::app(&v1).app_lines("restart: always"));
        host.fleet.succeed(&stack).await?;
        Ok(host)
    }

    fn stack(&self, image: &PushedImage, goes_back: bool) -> Stack {
        let smoke = if goes_back { "exit 1" } else { "sleep 1" };
        Stack::app_with(image, SLOW)
            // After a restart of the engine containers come back by this alone.
            .app_lines("restart: always")
            .service("migrator", &self.migrator, "init: true\nvolumes: [./data:/data]", "role: migrate")
            .settings(&format!("smoke:\n  - run: {{service: app, command: [sh, -c, \"{smoke}\"]}}\nbake_ms: 1500"))
    }

    async fn harmed(&mut self, harm: Harm, phase: (&str, OutcomeKind, bool)) -> Result<OutcomeKind> {
        let (name, kind, goes_back) = phase;
        let mut fault = Fault::new(format!("dockerd {harm:?} in phase {name}").to_lowercase());
        let version = format!("{harm:?}-{name}").to_lowercase();
        let image = AppImage::version(&version).file("ballast", &version.repeat(1_000_000 / version.len()));
        let image = self.fleet.push(&version, image).await?.by_way_of(&self.line.address.to_string());
        if name == "pull" {
            self.line.set(Weather { bytes_per_s: Some(LINE_BYTES_PER_S), ..Weather::default() });
        }
        let data = self.fleet.host(1).directory.join("data/runs");
        let _former_runs = std::fs::remove_file(&data);
        let counter = self.fleet.promote(&self.stack(&image, goes_back)).await?;
        self.fleet.reaches(1, counter, kind).await?;
        self.harm(harm).await?;
        fault.fired(format!("after {kind}"));
        self.line.set(Weather::default());
        let outcome = self.fleet.terminal(1, counter).await?;
        let expected = match outcome.kind {
            OutcomeKind::DeploySucceeded if !goes_back => (image, version),
            OutcomeKind::DeployFailed | OutcomeKind::DeployRolledBack => self.serving.clone(),
            _ => anyhow::bail!("it ended as {outcome:#?}"),
        };
        self.fleet.host(1).assert_runs(&expected.0, &expected.1).await?;
        self.serving = expected;
        let runs = std::fs::read_to_string(&data).unwrap_or_default();
        ensure!(runs.lines().count() <= 1, "the migration ran more than once");
        // The next good release is deployed.
        let version = format!("after-{counter}");
        let good = self.fleet.push(&version, AppImage::version(&version)).await?;
        self.fleet.succeed(&Stack::app(&good).app_lines("restart: always")).await?;
        self.fleet.host(1).assert_runs(&good, &version).await?;
        self.serving = (good, version);
        let state = self.fleet.host(1).executor.state_dir();
        assert_told(&self.fleet.bus, &state).await?;
        fault.survived()?;
        fault.end()?;
        Ok(outcome.kind)
    }

    async fn harm(&mut self, harm: Harm) -> Result<()> {
        let host = self.fleet.host(1);
        match harm {
            Harm::Stopped => host.stop_engine()?,
            Harm::Killed => host.kill_engine()?,
        }
        // Not a wait for something: so long it is away.
        tokio::time::sleep(if harm == Harm::Stopped { STOPPED } else { DOWN }).await;
        let host = self.fleet.host(1);
        match harm {
            Harm::Stopped => {
                // Known by the kernel's word, since who asks a stopped engine waits.
                host.continue_engine()?;
            }
            Harm::Killed => {
                ensure!(host.machine().ping().is_err(), "a killed engine answers");
                host.start_engine()?;
            }
        }
        Ok(())
    }
}

/// Every phase is tried, also when one before it failed: the table is to be whole.
async fn in_every_phase(harm: Harm) -> Result<()> {
    let mut host = Host::start().await?;
    let mut failed = Vec::new();
    for phase in PHASES {
        match host.harmed(harm, phase).await {
            Ok(kind) => eprintln!("{harm:?} in {}: {kind}", phase.0),
            Err(error) => {
                failed.push(error.context(format!("{harm:?} in {}", phase.0)));
                // What the failed one left is not to be blamed on the next.
                drop(host);
                host = Host::start().await.context("a fresh host")?;
            }
        }
    }
    let told: Vec<String> = failed.iter().map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{}", told.join("\n\n"));
    Ok(())
}

#[tokio::test]
#[ignore = "minutes: make faults"]
async fn the_engine_is_stopped_in_every_phase() -> Result<()> {
    in_every_phase(Harm::Stopped).await
}

#[tokio::test]
#[ignore = "minutes: make faults"]
async fn the_engine_is_killed_in_every_phase() -> Result<()> {
    in_every_phase(Harm::Killed).await
}
