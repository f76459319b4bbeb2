//! Some services only, and stacks that live for a while.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use landfall_tests::engine::Engine;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::names;
use landfall_tests::process::until;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::DEPLOY_LIMIT;
use landfall_tests::stack::{READY, Stack};

fn two_services(app: &PushedImage, side: &PushedImage) -> Stack {
    Stack::app(app).service("side", side, "init: true\nstop_grace_period: 1s", READY)
}

#[tokio::test]
async fn a_partial_promotion_leaves_the_other_service_alone_on_every_host() -> Result<()> {
    let mut fleet = FleetScenario::start(3, Use::Shared).await?;
    let [app, side] =
        [fleet.push("v1", AppImage::version("v1")).await?, fleet.push("s1", AppImage::version("s1")).await?];
    let run = fleet.promote_by_cli(&two_services(&app, &side), "v1", &["--wait"]).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let before: Vec<_> = fleet.hosts.iter().map(|host| host.snapshot()).collect::<Result<_>>()?;
    let side = fleet.push("s2", AppImage::version("s2")).await?;
    let arguments = ["--only", "side", "--waves", "1,100%", "--wait"];
    let run = fleet.promote_by_cli(&two_services(&app, &side), "s2", &arguments).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    for (host, before) in fleet.hosts.iter().zip(&before) {
        let now = host.snapshot()?;
        assert_eq!(now.containers["app"], before.containers["app"], "app was touched on {}", host.name);
        assert_ne!(now.containers["side"].id, before.containers["side"].id, "side is the old one on {}", host.name);
        let running = host.running_digests()?;
        ensure!(running["side"].contains(&side.digest), "{running:?} on {}", host.name);
        ensure!(running["app"].contains(&app.digest), "{running:?} on {}", host.name);
    }
    let counter = fleet.newest().await?;
    fleet.assert_succeeded(&[1, 2, 3], counter).await
}

/// Every container, network and volume of the engine whose name has this in it.
fn left_of(engine: &Engine, name: &str) -> Result<BTreeSet<String>> {
    let lists: [&[&str]; 3] = [
        &["ps", "--all", "--format", "container {{.Names}}"],
        &["network", "ls", "--format", "network {{.Name}}"],
        &["volume", "ls", "--format", "volume {{.Name}}"],
    ];
    let mut found = BTreeSet::new();
    for list in lists {
        found.extend(engine.docker(list)?.lines().filter(|line| line.contains(name)).map(str::to_owned));
    }
    Ok(found)
}

/// A host that takes previews, with one of this lifetime on it: the fleet, and the preview's name.
async fn preview(lifetime: &str) -> Result<(FleetScenario, String)> {
    let template = tempfile::tempdir()?;
    std::fs::write(template.path().join(".env"), "")?;
    let directory = template.path().to_owned();
    let mut fleet = FleetScenario::start_with(1, Use::Shared, |_, settings| {
        settings.sections = format!("[previews.shop]\ndirectory = {directory:?}\n");
    })
    .await?;
    let name = names::unique("pr");
    let image = fleet.push("v1", AppImage::version("v1")).await?;
    let text = format!(
        "services:\n  app:\n    image: {}\n    init: true\n    stop_grace_period: 1s\n    ports: [\"127.0.0.1::8080\"]\n    \
         volumes: [\"data:/data\"]\n    x-landfall: {{{READY}}}\nvolumes: {{data: {{}}}}\n",
        image.reference()
    );
    let stack = Stack::raw(&text, &[("app", &image)]);
    let env = format!("test/{name}");
    let run = fleet.promote_by_cli(&stack, "v1", &["--env", &env, "--lifetime", lifetime, "--wait"]).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let made = left_of(&fleet.host(1).engine(), &name)?;
    for kind in ["container", "network", "volume"] {
        ensure!(made.iter().any(|found| found.starts_with(kind)), "no {kind} was made: {made:?}");
    }
    Ok((fleet, name))
}

#[tokio::test]
async fn of_a_preview_that_is_removed_nothing_is_left() -> Result<()> {
    let (mut fleet, name) = preview("1h").await?;
    let run = fleet.cli()?.run(&["preview", "rm", "shop", &name, "--env", "test", "--wait"]).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let left = left_of(&fleet.host(1).engine(), &name)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn of_a_preview_whose_time_is_over_nothing_is_left() -> Result<()> {
    let (mut fleet, name) = preview("20s").await?;
    let engine = fleet.host(1).engine();
    until("nothing is left of the preview", DEPLOY_LIMIT, async || {
        let left = left_of(&engine, &name)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
