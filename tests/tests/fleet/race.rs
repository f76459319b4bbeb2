//! Many who promote at once.

use anyhow::Result;
use futures_util::future::try_join_all;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;

const PROMOTERS: usize = 10;
const RACED: i32 = 8;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs eight hosts: make test-fleet"]
async fn of_ten_promoters_one_wins_and_all_hosts_end_alike() -> Result<()> {
    let (mut fleet, _) = FleetScenario::with_v1(8, Use::Shared).await?;
    let mut images = Vec::new();
    for number in 0..PROMOTERS {
        let version = format!("p{number}");
        images.push((fleet.push(&version, AppImage::version(&version)).await?, version));
    }
    let before = fleet.newest().await?;
    // The CLI's home is made before they run at once.
    fleet.cli()?;
    let runs = try_join_all(
        images.iter().map(async |(image, version)| fleet.promote_by_cli(&Stack::app(image), version, &[]).await),
    )
    .await?;
    let codes: Vec<i32> = runs.iter().map(|run| run.code).collect();
    let winners = codes.iter().filter(|&&code| code == 0).count();
    let losers = codes.iter().filter(|&&code| code == RACED).count();
    // Who reads the place after another has won promotes after it, and wins a round of its own.
    assert_eq!(winners + losers, PROMOTERS, "{codes:?}");
    let newest = fleet.newest().await?;
    assert_eq!(newest - before, winners as u64, "each round has one winner: {codes:?}");
    let all = fleet.numbers();
    fleet.assert_succeeded(&all, newest).await?;
    let version = fleet.host(1).serving().await?;
    let Some((image, _)) = images.iter().find(|(_, found)| *found == version) else { panic!("{version} serves") };
    fleet.assert_runs_everywhere(image, &version).await
}
