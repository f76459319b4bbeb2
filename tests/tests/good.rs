//! Deploys that go well.

use anyhow::Result;
use landfall_tests::scenario::Scenario;

#[tokio::test]
async fn a_first_deploy_serves_the_promised_digest() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.deploy_v1().await?;
    let project = scenario.host().project.clone();
    let running = scenario.engine.running_digests(&project)?;
    assert_eq!(running["app"], [v1.digest]);
    Ok(())
}
