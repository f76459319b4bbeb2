//! Staging and production beside each other on one engine, each with an executor of its own.

use anyhow::Result;
use landfall_schema::ids::EnvName;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

/// Another environment on the same engine.
async fn production() -> Result<Scenario> {
    let mut scenario = Scenario::without_hosts().await?;
    scenario.env = EnvName::new("production")?;
    Ok(scenario)
}

#[tokio::test]
async fn two_environments_on_one_engine_do_not_touch_each_other() -> Result<()> {
    let mut staging = Scenario::with_v1().await?;
    let mut production = production().await?;
    production.add_host("host-a", |_| {}).await?;
    let of_production = production.deploy_v1().await?;
    let (before, port) = (production.container()?, production.hosts[0].port);
    assert_ne!(staging.hosts[0].port, port);

    let v2 = staging.push("v2", AppImage::version("v2")).await?;
    staging.succeed(&Stack::app(&v2)).await?;
    staging.assert_runs(&v2, "v2").await?;
    production.assert_runs(&of_production, "v1").await?;
    assert_eq!(production.container()?, before);

    let bad = staging.push("v3", AppImage::version("v3").exits(1)).await?;
    assert_eq!(staging.deploy(&Stack::app(&bad)).await?.kind, OutcomeKind::DeployRolledBack);
    staging.assert_runs(&v2, "v2").await?;
    assert_eq!(production.container()?, before);
    Ok(())
}

#[tokio::test]
async fn one_project_for_two_environments_is_refused() -> Result<()> {
    let staging = Scenario::with_v1().await?;
    let before = staging.container()?;
    let project = staging.hosts[0].project.clone();
    let mut production = production().await?;
    production.add_host("host-a", |settings| settings.apps[0].2 = project).await?;
    let image = production.push("v2", AppImage::version("v2")).await?;
    let outcome = production.deploy(&Stack::app(&image)).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRefused, "{outcome:#?}");
    let reason = outcome.reason.unwrap();
    assert_eq!(reason.code, ReasonCode::ProjectTaken);
    assert!(reason.hint.unwrap().contains("under [apps.shop]"));
    assert_eq!(staging.container()?, before);
    let checked = production.host().executor.check()?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("belongs to shop of test, not to shop of production"), "{said}");
    staging.assert_serves("v1").await
}

#[tokio::test]
async fn two_executors_never_share_a_state_directory() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let state_dir = scenario.host().executor.state_dir();
    let mut second = Scenario::without_hosts().await?;
    let started = second
        .add_host("host-a", |settings| {
            let state_dir = state_dir.to_string_lossy().into_owned();
            settings.environment.insert("LANDFALL_STATE_DIR".to_owned(), state_dir);
        })
        .await;
    let said = format!("{:#}", started.unwrap_err());
    assert!(said.contains("another executor runs with the state directory"), "{said}");
    assert!(said.contains("give this one a state_dir of its own"), "{said}");
    assert!(scenario.host().executor.is_running());
    Ok(())
}
