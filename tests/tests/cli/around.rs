//! What is around a promotion: preparing the bus, checking files, machines and configurations.

use anyhow::Result;
use landfall_tests::cli::Cli;
use landfall_tests::lab::Lab;
use landfall_tests::nats::NatsServer;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use tempfile::TempDir;

use super::{DONE, ERROR, Job};

#[tokio::test]
async fn init_and_bus_apply_prepare_an_empty_server() -> Result<()> {
    let (lab, home) = (Lab::from_env()?, TempDir::new()?);
    let nats = NatsServer::start(&lab).await?;
    let cli = Cli::new(home.path()).variable("NATS_URL", &nats.url()).variable("LANDFALL_ENV", "staging");
    let made = cli.run(&["init"]).await?;
    assert_eq!(made.code, DONE);
    assert!(made.stdout.starts_with("promote = [\"U"), "{made:?}");
    let again = cli.run(&["init"]).await?;
    assert_eq!((again.code, &again.stdout), (DONE, &made.stdout), "the key was made anew");

    let plan = cli.run(&["bus", "apply", "--dry-run"]).await?;
    assert_eq!(plan.code, DONE);
    assert!(plan.stdout.contains("create") && plan.stdout.contains("RELEASES"), "{plan:?}");
    assert!(!nats.connect().await?.diff().await?.is_empty(), "a dry run changed something");
    assert_eq!(cli.run(&["bus", "apply"]).await?.code, DONE);
    assert!(nats.connect().await?.diff().await?.is_empty());
    let again = cli.run(&["bus", "apply", "--output", "json"]).await?;
    assert_eq!(again.json()?["changes"], serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn lint_doctor_and_completions_say_what_is_wrong() -> Result<()> {
    let job = Job::new().await?;
    let plain = Stack::raw("services:\n  web:\n    image: nginx:1.27\n    ports: [\"80:80\"]\n", &[]);
    let file = job.scenario.compose_file("plain", &plain)?;
    assert_eq!(job.cli.run(&["lint", &file]).await?.code, DONE);
    let wrong = Stack::raw("services:\n  web:\n    image: nginx:1.27\n    x-landfall:\n      redy: {}\n", &[]);
    let file = job.scenario.compose_file("wrong", &wrong)?;
    let run = job.cli.run(&["lint", &file]).await?;
    assert_eq!(run.code, ERROR);
    assert!(run.stdout.contains("wrong.yml:5") && run.stdout.contains("redy"), "{run:?}");

    let report = job.cli.run(&["doctor", "--output", "json", "--registry", &job.scenario.registry.address]).await?;
    assert_eq!(report.code, DONE, "{report:?}");
    assert_eq!(report.json()?["healthy"], true);
    let sick = job.cli.clone().variable("NATS_URL", "nats://127.0.0.1:1").run(&["doctor"]).await?;
    assert_eq!(sick.code, ERROR, "{sick:?}");
    for shell in ["bash", "zsh", "fish"] {
        let run = job.cli.run(&["completions", shell]).await?;
        assert!(run.code == DONE && run.stdout.contains("landfall"), "{run:?}");
    }
    let version = job.cli.run(&["--version"]).await?;
    assert!(version.code == DONE && version.stdout.starts_with("landfall "), "{version:?}");
    Ok(())
}

#[tokio::test]
async fn the_executor_checks_its_configuration() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let check = scenario.host().executor.check()?;
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let executor = &mut scenario.host().executor;
    executor.settings.trusted = vec!["nobody".to_owned()];
    executor.settings.env = "a/b".to_owned();
    executor.settings.min_free_disk = "plenty".to_owned();
    let check = executor.check()?;
    assert!(!check.status.success());
    let told = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    for mistake in ["nobody", "a/b", "plenty"] {
        assert!(told.contains(mistake), "{mistake} is not told:\n{told}");
    }
    Ok(())
}
