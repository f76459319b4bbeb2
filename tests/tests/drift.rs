//! Somebody changes by hand what an executor has deployed.

use anyhow::Result;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

fn count(scenario: &Scenario, kind: OutcomeKind) -> usize {
    scenario.outcomes.seen().iter().filter(|published| published.data.kind == kind).count()
}

#[tokio::test]
async fn drift_is_told_once_and_left_as_it_is() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    let container = scenario.container()?;
    scenario.engine.docker(&["stop", "--time", "0", &container])?;
    let told = scenario.reaches(0, 1, OutcomeKind::DriftDetected).await?;
    assert_eq!((told.counter.0, told.release.as_str()), (1, "r1"));
    assert!(told.message.starts_with("service app: its container was stopped"), "{}", told.message);
    let reason = told.reason.unwrap();
    assert_eq!(reason.code, ReasonCode::Drifted);
    assert!(reason.hint.unwrap().contains("drift = \"repair\" under [apps.shop]"));
    assert!(scenario.container().is_err(), "it was started again");

    // A deploy puts it right. What it does itself is no drift; the next change by hand is.
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.assert_runs(&v2, "v2").await?;
    scenario.engine.docker(&["rm", "--force", &scenario.container()?])?;
    let told = scenario.reaches(0, 2, OutcomeKind::DriftDetected).await?;
    assert_eq!(told.message, "service app: its container was removed");
    assert_eq!(count(&scenario, OutcomeKind::DriftDetected), 2);
    assert_eq!(count(&scenario, OutcomeKind::DriftRepaired), 0);
    Ok(())
}

#[tokio::test]
async fn drift_is_repaired() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    scenario.add_host("host-a", |settings| settings.drift = "repair".to_owned()).await?;
    let v1 = scenario.deploy_v1().await?;
    scenario.engine.docker(&["stop", "--time", "0", &scenario.container()?])?;
    let repaired = scenario.reaches(0, 1, OutcomeKind::DriftRepaired).await?;
    assert_eq!(repaired.message, "r1 serves again; put back app");
    assert_eq!(repaired.running.values().collect::<Vec<_>>(), [&v1.digest]);
    scenario.assert_runs(&v1, "v1").await?;
    Ok(())
}

#[tokio::test]
async fn what_was_replaced_while_nobody_looked_is_repaired_after_the_start() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    scenario.add_host("host-a", |settings| settings.drift = "repair".to_owned()).await?;
    let v1 = scenario.deploy_v1().await?;
    scenario.host().executor.terminate().await?;
    let other = scenario.push("other", AppImage::version("other")).await?;
    let project = scenario.hosts[0].project.clone();
    let name = format!("{project}-app-1");
    scenario.engine.docker(&["rm", "--force", &name])?;
    let labels = [
        format!("com.docker.compose.project={project}"),
        "com.docker.compose.service=app".to_owned(),
        "com.docker.compose.oneoff=False".to_owned(),
    ];
    let image = other.pinned().reference();
    let mut run = vec!["run", "--detach", "--name", &name];
    run.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    run.push(&image);
    scenario.engine.docker(&run)?;
    scenario.start_executor(0).await?;
    let told = scenario.reaches(0, 1, OutcomeKind::DriftDetected).await?;
    assert!(told.message.contains("replaced by one of the image"), "{}", told.message);
    scenario.reaches(0, 1, OutcomeKind::DriftRepaired).await?;
    scenario.assert_runs(&v1, "v1").await
}

#[tokio::test]
async fn a_repair_that_cannot_be_done_is_told_and_given_up() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    scenario.add_host("host-a", |settings| settings.drift = "repair".to_owned()).await?;
    scenario.deploy_v1().await?;
    let image = scenario.push("other", AppImage::version("other")).await?.pinned().reference();
    let name = format!("{}-app-1", scenario.hosts[0].project);
    scenario.engine.docker(&["rm", "--force", &name])?;
    // A container that is nobody's has the name that Compose needs.
    let taken = scenario.engine.docker(&["run", "--detach", "--name", &name, &image])?;
    let failed = scenario.reaches(0, 1, OutcomeKind::DriftFailed).await;
    let given_up = scenario
        .outcomes
        .wait("giving up", landfall_tests::scenario::DEPLOY_LIMIT, |outcome| {
            outcome.kind == OutcomeKind::DriftFailed && outcome.message.ends_with("given up after 5 attempts")
        })
        .await;
    scenario.engine.docker(&["rm", "--force", taken.trim()])?;
    assert!(failed?.message.contains("already in use"));
    given_up?;
    assert_eq!(count(&scenario, OutcomeKind::DriftFailed), 5);
    assert_eq!(count(&scenario, OutcomeKind::DriftDetected), 1);
    Ok(())
}
