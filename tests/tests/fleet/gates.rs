//! A freeze, approvals and an absolution by the real CLI, each on all hosts of a fleet.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::signature::SigningKey;
use landfall_tests::cli::{Cli, Run};
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::promotion::Draft;
use landfall_tests::stack::Stack;

use super::waves::{BREAKABLE, BREAKS, snapshots, touched};

const DONE: i32 = 0;
const ROLLED_BACK: i32 = 3;
const REFUSED: i32 = 6;
const WAVES: [&[&str]; 2] = [&["h1"], &["h2", "h3"]];

/// Three hosts that believe one admin, on which `v1` serves, and a CLI with the admin's key.
async fn ruled() -> Result<(FleetScenario, Cli)> {
    let admin = SigningKey::generate();
    let key = admin.public().to_string();
    let mut fleet =
        FleetScenario::start_with(3, Use::Shared, |_, settings| settings.admins = vec![key.clone()]).await?;
    let v1 = fleet.push("v1", AppImage::version("v1")).await?;
    fleet.succeed(&Stack::app(&v1)).await?;
    let cli = fleet.cli()?;
    let file = key_file(&cli, "admin", &admin)?;
    Ok((fleet, cli.variable("LANDFALL_ADMIN_KEY_FILE", &file)))
}

fn key_file(cli: &Cli, name: &str, key: &SigningKey) -> Result<String> {
    let path = cli.home().join(format!("{name}.seed"));
    std::fs::write(&path, key.seed()?)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path.to_string_lossy().into_owned())
}

async fn landfall(cli: &Cli, code: i32, arguments: &[&str]) -> Result<Run> {
    let run = cli.run(arguments).await?;
    assert_eq!(run.code, code, "landfall {}: {}", arguments.join(" "), run.stderr);
    Ok(run)
}

/// Publishes `v2` past the checks of the CLI, for hosts that act together.
async fn publish(fleet: &mut FleetScenario, stack: &Stack) -> Result<Draft> {
    let draft = fleet.draft(stack).await?.coordinate(&fleet.bus, &WAVES).await?;
    fleet.publish(&draft).await?;
    Ok(draft)
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn a_freeze_holds_a_fleet_up_until_it_ends() -> Result<()> {
    let (mut fleet, cli) = ruled().await?;
    let before = snapshots(&fleet)?;
    landfall(&cli, DONE, &["freeze", "--reason", "the sale", "--until", "2h", "--author", "bob"]).await?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let refused = fleet.promote_by_cli(&Stack::app(&v2), "v2", &["--wait"]).await?;
    assert_eq!(refused.code, REFUSED, "{}", refused.stderr);
    let draft = publish(&mut fleet, &Stack::app(&v2)).await?;
    let waiting = |host: &str| {
        let host = host.to_owned();
        move |said: &landfall_schema::outcome::Outcome| said.host.as_str() == host && said.message.contains("the sale")
    };
    fleet
        .outcomes
        .wait("the canary waits for the freeze's end", landfall_tests::scenario::DEPLOY_LIMIT, waiting("h1"))
        .await?;
    assert_eq!(touched(&fleet, &before)?, Vec::<usize>::new());
    landfall(&cli, DONE, &["unfreeze"]).await?;
    fleet.assert_succeeded(&[1, 2, 3], draft.counter()).await?;
    fleet.assert_runs_everywhere(&v2, "v2").await
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn a_fleet_waits_for_an_approval() -> Result<()> {
    let (mut fleet, cli) = ruled().await?;
    let bob = SigningKey::generate();
    let policy = format!("approvals = {{ need = 1, of = [{{ name = \"bob\", key = \"{}\" }}] }}\n", bob.public());
    std::fs::write(cli.home().join("policy.toml"), policy)?;
    landfall(&cli, DONE, &["policy", "apply", "policy.toml", "--env", "test", "--author", "ann"]).await?;
    let before = snapshots(&fleet)?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let draft = publish(&mut fleet, &Stack::app(&v2)).await?;
    let waits = fleet.reaches(1, draft.counter(), OutcomeKind::ReleaseWaiting).await?;
    assert!(waits.message.contains("bob"), "{waits:#?}");
    assert_eq!(touched(&fleet, &before)?, Vec::<usize>::new());
    let key = key_file(&cli, "bob", &bob)?;
    landfall(&cli, DONE, &["approve", "shop", "--key", &key]).await?;
    fleet.assert_succeeded(&[1, 2, 3], draft.counter()).await?;
    fleet.assert_runs_everywhere(&v2, "v2").await
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn what_failed_on_one_host_is_refused_by_all_until_it_is_absolved() -> Result<()> {
    let (fleet, cli) = ruled().await?;
    let v2 = fleet.push("v2", AppImage::version("v2").script(BREAKABLE)).await?;
    let stack = Stack::app(&v2).app_lines(BREAKS);
    let settings: Vec<_> = fleet.hosts.iter().map(|host| host.directory.join(".env")).collect();
    let sound: Vec<String> = settings.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    for host in &fleet.hosts {
        host.set("BROKEN", "1")?;
    }
    let arguments = ["--waves", "1,100%", "--wait"];
    let run = fleet.promote_by_cli(&stack, "v2", &arguments).await?;
    assert_eq!(run.code, ROLLED_BACK, "{}", run.stderr);
    for (path, text) in settings.iter().zip(&sound) {
        std::fs::write(path, text)?;
    }
    let before = snapshots(&fleet)?;
    let run = fleet.promote_by_cli(&stack, "v2", &arguments).await?;
    assert_eq!(run.code, REFUSED, "{}", run.stderr);
    assert_eq!(touched(&fleet, &before)?, Vec::<usize>::new());
    landfall(&cli, DONE, &["absolve", "shop", "v2", "--reason", "a setting was wrong", "--author", "ann"]).await?;
    let run = fleet.promote_by_cli(&stack, "v2", &arguments).await?;
    assert_eq!(run.code, DONE, "{}", run.stderr);
    fleet.assert_runs_everywhere(&v2, "v2").await
}
