//! What is promoted: images, services, and what a rollback goes back to.

use anyhow::Result;
use landfall_tests::image::AppImage;
use landfall_tests::registry_proxy::RegistryProxy;
use landfall_tests::stack::Stack;

use super::{DONE, ERROR, Job, USAGE};

#[tokio::test]
async fn rollback_needs_no_version() -> Result<()> {
    let job = Job::new().await?;
    job.deploy("v1").await?;
    let run = job.cli.run(&["rollback", "shop", "--wait"]).await?;
    assert_eq!(run.code, ERROR, "there was nothing to go back to: {run:?}");
    assert!(run.stderr.contains("hint:"), "{run:?}");
    job.scenario.assert_serves("v1").await?;

    job.deploy("v2").await?;
    let run = job.cli.run(&["rollback", "shop", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v1").await?;
    // Once more: not forth again to what was just left.
    job.deploy("v3").await?;
    let run = job.cli.run(&["rollback", "shop", "--env", "test", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v1").await?;
    let run = job.cli.run(&["rollback", "shop", "--to", "v2", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn only_some_services_change_and_the_others_keep_their_versions() -> Result<()> {
    let job = Job::new().await?;
    let [app, side] = ["app-1", "side-1"].map(|tag| job.scenario.push(tag, AppImage::version(tag)));
    let (app, side) = (app.await?, side.await?);
    let stack = Stack::app(&app).service("side", &side, "init: true", "role: serve");
    let file = job.scenario.compose_file("compose", &stack)?;
    let reference = job.scenario.push("app-2", AppImage::version("app-2")).await?.reference();
    let arguments = ["promote", "shop", "--file", &file, "--only", "app", "--image", &reference, "--wait"];
    let run = job.cli.run(&arguments).await?;
    assert!(run.code == ERROR && run.stderr.contains("without --only"), "{run:?}");
    let run = job.promote("v1", &stack, &["--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    let before = job.scenario.engine.container_id(&job.scenario.hosts[0].project, "side")?;
    let run = job.cli.run(&arguments).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("app-2").await?;
    assert_eq!(job.scenario.engine.container_id(&job.scenario.hosts[0].project, "side")?, before, "side was restarted");
    let status = job.cli.run(&["status", "shop"]).await?;
    assert!(status.stderr.contains("app app-2 (changed), side side-1"), "{status:?}");
    let unknown = job.cli.run(&["promote", "shop", "--file", &file, "--only", "nothing"]).await?;
    assert_eq!(unknown.code, USAGE, "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_promoted_when_something_is_wrong_before() -> Result<()> {
    let job = Job::new().await?;
    let v1 = job.scenario.push("v1", AppImage::version("v1")).await?;
    let stack = Stack::app(&v1);
    let missing = Stack::app(&landfall_tests::registry::PushedImage { tag: "v9".to_owned(), ..v1.clone() });
    let mut proxy = RegistryProxy::before(&job.scenario.registry.address).await?;
    proxy.stop().await;
    let down = Stack::app(&v1.by_way_of(&proxy.address));
    let private = Stack::app(&v1.by_way_of(&job.scenario.lab.private_registry.address));
    let built = Stack::raw("services:\n  app:\n    build: .\n", &[]);
    let broken = Stack::raw("services:\n  app: [\n", &[]);
    let cases = [
        ("missing", &missing, "v9"),
        ("down", &down, proxy.address.as_str()),
        ("private", &private, "docker login"),
        ("built", &built, "app"),
        ("broken", &broken, "broken.yml"),
    ];
    for (name, stack, told) in cases {
        let run = job.promote(name, stack, &["--wait"]).await?;
        assert_eq!(run.code, ERROR, "{run:?}");
        assert!(run.stderr.contains("error:") && run.stderr.contains("hint:") && run.stderr.contains(told), "{run:?}");
    }
    let run = job.promote("v1", &stack, &["--dry-run"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    assert!(run.stdout.contains(v1.digest.short()), "{run:?}");
    let run = job.promote("v1", &stack, &["--env", "nowhere"]).await?;
    assert_eq!(run.code, ERROR, "no host is there: {run:?}");
    let away = job.cli.clone().variable("NATS_URL", "nats://127.0.0.1:1").run(&["status"]).await?;
    assert_eq!(away.code, ERROR, "{away:?}");
    assert!(away.stderr.contains("127.0.0.1:1") && away.stderr.contains("hint:"), "{away:?}");
    for arguments in [&["promote", "shop", "--nonsense"][..], &["frobnicate"], &["rollback"]] {
        assert_eq!(job.cli.run(arguments).await?.code, USAGE);
    }
    assert!(job.scenario.bus.promotions(&job.scenario.env, None).await?.is_empty(), "something was promoted");
    Ok(())
}

#[tokio::test]
async fn images_come_from_variables_and_options_too() -> Result<()> {
    let mut job = Job::new().await?;
    let v1 = job.scenario.push("v1", AppImage::version("v1")).await?;
    let text = Stack::app(&v1).text().replace(&v1.reference(), "${APP_IMAGE}");
    let stack = Stack::raw(&text, &[]);
    let file = job.scenario.compose_file("compose", &stack)?;
    let by_variable = job.cli.clone().variable("APP_IMAGE", &v1.reference());
    let run = by_variable.run(&["promote", "shop", "--file", &file, "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_runs(&v1, "v1").await?;
    let v2 = job.scenario.push("v2", AppImage::version("v2")).await?;
    let run = job.cli.run(&["promote", "shop", "--file", &file, "--image", &v2.reference(), "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_runs(&v2, "v2").await?;
    // The tag that was chosen names the release.
    let outcome = job.scenario.terminal(0, 2).await?;
    assert_eq!(outcome.release.as_str(), "v2");
    Ok(())
}
