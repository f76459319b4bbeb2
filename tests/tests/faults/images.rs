//! Images that are cleaned away while a release may still have to go back.

use anyhow::{Result, ensure};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;

use super::assert_host_told;
use crate::expect::{Served, ended};

/// Everything that no container uses goes, and the registry has the former release no more either.
#[tokio::test]
async fn images_are_pruned_between_the_swap_and_the_way_back() -> Result<()> {
    let mut fault = Fault::new("docker image prune -af before a rollback");
    let mut served = Served::v1().await?;
    let scenario = &mut served.scenario;
    // Of this test's images alone: the engine is shared.
    let label = format!("label=dev.landfall.test={}", scenario.repository);
    let unused = scenario.push("unused", AppImage::version("unused")).await?;
    scenario.engine.docker(&["pull", "--quiet", &unused.reference()])?;
    let bad = scenario.push("v2", AppImage::version("v2")).await?;
    let smoke = "smoke:\n  - run: {service: app, command: [sh, -c, \"sleep 4; exit 1\"]}";
    let counter = scenario.promote(&Stack::app(&bad).settings(smoke)).await?;
    scenario.reaches(0, counter, OutcomeKind::SmokeStarted).await?;
    scenario.registry.delete(&served.v1).await?;
    let pruned = scenario.engine.docker(&["image", "prune", "--all", "--force", "--filter", &label])?;
    ensure!(pruned.contains(unused.digest.as_str()), "nothing was pruned: {pruned}");
    fault.fired("what no container used is gone");
    let outcome = scenario.terminal(0, counter).await?;
    ended(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::SmokeFailed);
    served.scenario.assert_runs(&served.v1, "v1").await?;
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}
