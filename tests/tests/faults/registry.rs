//! Registries on a bad line. (Those that are down, deny, or give other manifests: `crate::registry`.)

use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::registry::PushedImage;
use landfall_tests::registry_proxy::{Mood, RegistryProxy};
use landfall_tests::stack::Stack;
use landfall_tests::tcp_proxy::{TcpProxy, Weather};

use super::{assert_ended, assert_host_told};
use crate::expect::Served;

const LAYER_BYTES: usize = 1_000_000;
const STRUCK_LIMIT: Duration = Duration::from_secs(20);

/// A release whose own layer takes a while on a slow line.
async fn large(served: &Served, version: &str) -> Result<PushedImage> {
    let image = AppImage::version(version).file("ballast", &version.repeat(LAYER_BYTES / version.len()));
    served.scenario.push(version, image).await
}

async fn on_a_bad_line(name: &str, weather: Weather, heals: bool) -> Result<()> {
    let mut fault = Fault::new(format!("registry: {name}"));
    let mut served = Served::v1().await?;
    let proxy = TcpProxy::before(&served.scenario.registry.address).await?;
    let v2 = large(&served, "v2").await?.by_way_of(&proxy.address.to_string());
    proxy.set(weather);
    let counter = served.scenario.promote(&Stack::app(&v2)).await?;
    until("the line is bad", STRUCK_LIMIT, async || {
        ensure!(proxy.struck() > 0, "nothing was held up yet");
        Ok(())
    })
    .await?;
    fault.fired(format!("{} pieces were late or connections broken", proxy.struck()));
    if heals {
        // Not a wait for something: so long the line is bad.
        tokio::time::sleep(Duration::from_secs(4)).await;
        proxy.set(Weather::default());
    }
    let v1 = served.v1.clone();
    let kind = assert_ended(&mut served.scenario, counter, (&v2, "v2"), (&v1, "v1")).await?;
    proxy.set(Weather::default());
    if kind == OutcomeKind::DeployFailed {
        let outcome = served.scenario.terminal(0, counter).await?;
        let code = outcome.reason.as_ref().map(|reason| reason.code);
        ensure!(code == Some(ReasonCode::RegistryUnreachable), "{outcome:#?}");
        served.assert_untouched().await?;
        served.scenario.succeed(&Stack::app(&v2)).await?;
    }
    served.scenario.assert_runs(&v2, "v2").await?;
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}

#[tokio::test]
#[ignore = "a while: make faults"]
async fn a_registry_on_bad_lines() -> Result<()> {
    let slow = Weather { bytes_per_s: Some(300_000), delay: Duration::from_millis(50), ..Weather::default() };
    on_a_bad_line("slow", slow, false).await?;
    on_a_bad_line("still for 4 s", Weather { is_still: true, ..Weather::default() }, true).await?;
    on_a_bad_line("down for 4 s", Weather { is_down: true, ..Weather::default() }, true).await?;
    let cut = Weather { cut_after_bytes: Some(600_000), ..Weather::default() };
    on_a_bad_line("truncating each layer", cut, false).await
}

#[tokio::test]
async fn layers_that_are_other_bytes() -> Result<()> {
    let mut fault = Fault::new("registry: other bytes in a layer");
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let proxy = RegistryProxy::before(&served.scenario.registry.address).await?;
    proxy.set(Mood::Spoiling);
    let spoilt = Stack::app(&v2.by_way_of(&proxy.address));
    let reason = served.assert_fails(&spoilt, ReasonCode::ImageDigestMismatch).await?;
    fault.fired(&reason.message);
    proxy.set(Mood::Honest);
    served.scenario.succeed(&spoilt).await?;
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}
