//! The harness itself: its parts do what the other tests believe of them.

use anyhow::Result;
use landfall_tests::database::Database;
use landfall_tests::engine::Engine;
use landfall_tests::image::AppImage;
use landfall_tests::lab::Lab;
use landfall_tests::names;
use landfall_tests::nats::NatsServer;
use landfall_tests::registry::Registry;
use landfall_tests::registry_proxy::{Mood, RegistryProxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pushed_pulled_and_tampered_with() -> Result<()> {
    let lab = Lab::from_env()?;
    let (registry, engine, name) = (Registry::open(&lab)?, Engine::new(&lab), names::unique("parts"));
    let image = registry.push(&name, "v1", &AppImage::version("v1").script("cat /www/index.html /www/ready")).await?;
    let pinned = image.pinned().reference();
    engine.docker(&["pull", "--quiet", &pinned])?;
    let said = engine.docker(&["run", "--rm", &pinned])?;
    let here = engine.images(&image.repository)?;
    engine.remove_images(&format!("{name}*"))?;
    assert_eq!(said, "v1\nok\n");
    assert_eq!(here, std::slice::from_ref(&image.digest));
    assert!(engine.images(&image.repository)?.is_empty());

    // The engine keeps manifests that it has seen for a while, so this is about another one.
    let image = registry.push(&name, "v2", &AppImage::version("v2")).await?;
    let proxy = RegistryProxy::before(&registry.address).await?;
    let by_proxy = image.by_way_of(&proxy.address).pinned().reference();
    for (mood, expect) in [(Mood::Tampering, "digest"), (Mood::Denying, "auth")] {
        proxy.set(mood);
        let error = engine.docker(&["pull", &by_proxy]).expect_err("the pull succeeded").to_string();
        assert!(error.contains(expect), "{mood:?}: {error}");
    }
    proxy.set(Mood::Honest);
    engine.docker(&["pull", "--quiet", &by_proxy])?;
    engine.remove_images(&format!("{name}*"))
}

#[tokio::test]
async fn databases_are_made_and_servers_come_back() -> Result<()> {
    let lab = Lab::from_env()?;
    let database = Database::create(&lab).await?;
    assert_eq!(database.texts("SELECT 'here'").await?, ["here"]);
    let mut nats = NatsServer::start(&lab).await?;
    let bus = nats.connect().await?;
    bus.apply().await?;
    nats.down().await?;
    nats.up().await?;
    let changes = nats.connect().await?.diff().await?;
    assert!(changes.is_empty(), "what was stored is gone: {changes:#?}");
    Ok(())
}
