//! Hosts that are cut off from the bus: one way, both ways, again and again; in the middle of a deploy. (Before, during and after their wave:
//! `crate::fleet::away`.) And a slow line to the bus.

use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::fault::Fault;
use landfall_tests::fleet::cut::Direction;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use landfall_tests::tcp_proxy::{TcpProxy, Weather};

use super::{SLOW, assert_host_told, assert_told};
use crate::expect::Served;

/// A host that is cut off for so long has missed beats, and its connection may have broken.
const CUT: Duration = Duration::from_secs(20);
const FLAPS: usize = 8;

#[tokio::test]
#[ignore = "real hosts, minutes: make faults"]
async fn a_host_is_cut_off_in_the_middle_of_a_deploy() -> Result<()> {
    let (mut fleet, _) = FleetScenario::with_v1(1, Use::Shared).await?;
    for (name, direction) in
        [("hears nothing", Direction::In), ("is not heard", Direction::Out), ("is cut off", Direction::Both)]
    {
        let mut fault = Fault::new(format!("host {name} for {} s in a deploy", CUT.as_secs()));
        let image = fleet.push("cut", AppImage::version(name)).await?;
        let counter = fleet.promote(&Stack::app_with(&image, SLOW)).await?;
        fleet.reaches(1, counter, OutcomeKind::ReadinessProbing).await?;
        fleet.host(1).cut_off_one_way(direction)?;
        fleet.host(1).assert_serves(name).await?;
        // Not a wait for something: so long it is cut off.
        tokio::time::sleep(CUT).await;
        let told = fleet.bus.outcomes_so_far("landfall.test.outcome.shop.h1.deploy.>").await?;
        let seen = told.len();
        fault.fired(format!("{seen} ends of deploys are on the bus, {counter} were promoted"));
        if direction != Direction::In {
            ensure!(u64::try_from(seen)? < counter, "it was heard all the same");
        }
        fleet.host(1).reconnect()?;
        fleet.assert_succeeded(&[1], counter).await?;
        fleet.host(1).assert_runs(&image, name).await?;
        goes_on(&mut fleet, name).await?;
        fault.survived()?;
        fault.end()?;
    }
    Ok(())
}

async fn goes_on(fleet: &mut FleetScenario, name: &str) -> Result<()> {
    let version = format!("after {name}");
    let good = fleet.push("good", AppImage::version(&version)).await?;
    fleet.succeed(&Stack::app(&good)).await?;
    fleet.host(1).assert_runs(&good, &version).await?;
    let state = fleet.host(1).executor.state_dir();
    assert_told(&fleet.bus, &state).await
}

#[tokio::test]
#[ignore = "real hosts, minutes: make faults"]
async fn a_host_flaps_in_the_middle_of_a_deploy() -> Result<()> {
    let mut fault = Fault::new("host flaps, cut off and back each second");
    let (mut fleet, _) = FleetScenario::with_v1(1, Use::Shared).await?;
    let image = fleet.push("flap", AppImage::version("flap")).await?;
    let counter = fleet.promote(&Stack::app_with(&image, SLOW).settings("bake_ms: 8000")).await?;
    fleet.reaches(1, counter, OutcomeKind::StackUpdating).await?;
    for _ in 0..FLAPS {
        fleet.host(1).cut_off_for_long()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.host(1).reconnect()?;
        fault.fired("its connections were broken");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fleet.assert_succeeded(&[1], counter).await?;
    fleet.host(1).assert_runs(&image, "flap").await?;
    goes_on(&mut fleet, "flap").await?;
    for _ in 0..FLAPS {
        fault.survived()?;
    }
    fault.end()
}

/// Every byte to and from the bus is late, and then nothing comes for a while although no connection breaks.
#[tokio::test]
#[ignore = "a while: make faults"]
async fn a_slow_and_a_silent_line_to_the_bus() -> Result<()> {
    let mut fault = Fault::new("bus: each piece 200 ms late, then 6 s of silence");
    let mut scenario = Scenario::without_hosts().await?;
    let proxy = TcpProxy::before(&format!("127.0.0.1:{}", scenario.nats.port())).await?;
    let url = format!("nats://{}", proxy.address);
    scenario.add_host("host-a", |settings| settings.bus_url = url).await?;
    let mut served = Served::over(scenario).await?;
    proxy.set(Weather { delay: Duration::from_millis(200), ..Weather::default() });
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v2, SLOW)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    let late = proxy.struck();
    ensure!(late > 0, "nothing was late");
    proxy.set(Weather { is_still: true, ..Weather::default() });
    served.scenario.assert_serves("v2").await?;
    // Not a wait for something: so long the line is silent.
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(proxy.struck() > late, "nothing was held up");
    fault.fired(format!("{} pieces", proxy.struck()));
    proxy.set(Weather::default());
    let outcome = served.scenario.terminal(0, counter).await?;
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}
