//! Images that are not there, not what they should be, or not for everyone: the host says which, and serves on.

use anyhow::Result;
use landfall_schema::ids::Digest;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::image::AppImage;
use landfall_tests::registry::Registry;
use landfall_tests::registry_proxy::{Mood, RegistryProxy};
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

use crate::expect::Served;

#[tokio::test]
async fn an_image_that_does_not_exist() -> Result<()> {
    let mut served = Served::v1().await?;
    let mut v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    v2.repository.push_str("-never-pushed");
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::ImageNotFound).await?;
    assert!(reason.message.contains(&v2.repository), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_digest_that_is_not_in_the_repository() -> Result<()> {
    let mut served = Served::v1().await?;
    let mut v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    v2.digest = Digest::of(b"never pushed");
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::ImageNotFound).await?;
    assert!(reason.message.contains(v2.digest.short()), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn an_image_that_was_deleted_after_it_was_promoted() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    served.scenario.registry.delete(&v2).await?;
    served.assert_fails(&Stack::app(&v2), ReasonCode::ImageNotFound).await?;
    served.assert_goes_on().await
}

#[tokio::test]
async fn content_that_was_tampered_with() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let proxy = RegistryProxy::before(&served.scenario.registry.address).await?;
    proxy.set(Mood::Tampering);
    let tampered = Stack::app(&v2.by_way_of(&proxy.address));
    served.assert_fails(&tampered, ReasonCode::ImageDigestMismatch).await?;
    proxy.set(Mood::Honest);
    served.scenario.succeed(&tampered).await?;
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_registry_that_is_down() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let mut proxy = RegistryProxy::before(&served.scenario.registry.address).await?;
    proxy.stop().await;
    let reason =
        served.assert_fails(&Stack::app(&v2.by_way_of(&proxy.address)), ReasonCode::RegistryUnreachable).await?;
    assert!(reason.message.contains(&proxy.address), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_registry_that_refuses_strangers() -> Result<()> {
    let mut served = Served::v1().await?;
    let private = Registry::private(&served.scenario.lab)?;
    let v2 = private.push(&served.scenario.repository, "v2", &AppImage::version("v2")).await?;
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::RegistryDenied).await?;
    assert!(reason.hint.is_some_and(|hint| hint.contains("docker login")), "the hint says nothing of docker login");
    served.assert_goes_on().await
}

#[tokio::test]
async fn dockers_own_credentials_are_honoured() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    let docker = scenario.folder().join("login");
    std::fs::create_dir_all(&docker)?;
    let private = scenario.lab.private_registry.clone();
    // What `docker login` writes: user and password in base64.
    let auth = serde_json::json!({"auths": {private.address.clone(): {"username": private.user, "password": private.password, "auth": AUTH}}});
    std::fs::write(docker.join("config.json"), auth.to_string())?;
    let docker = docker.to_string_lossy().into_owned();
    scenario
        .add_host("host-a", |settings| {
            settings.environment.insert("DOCKER_CONFIG".to_owned(), docker);
        })
        .await?;
    let registry = Registry::private(&scenario.lab)?;
    let v1 = registry.push(&scenario.repository, "v1", &AppImage::version("v1")).await?;
    scenario.succeed(&Stack::app(&v1)).await?;
    scenario.assert_runs(&v1, "v1").await?;
    let log = scenario.host().executor.whole_log()?;
    assert!(!log.contains(AUTH), "the log holds credentials");
    Ok(())
}

/// `ci:secret` in base64.
const AUTH: &str = "Y2k6c2VjcmV0";

#[tokio::test]
async fn a_wrong_password_is_told_as_such() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    let docker = scenario.folder().join("login");
    std::fs::create_dir_all(&docker)?;
    let address = scenario.lab.private_registry.address.clone();
    // `ci:wrong` in base64.
    std::fs::write(
        docker.join("config.json"),
        serde_json::json!({"auths": {address: {"auth": "Y2k6d3Jvbmc="}}}).to_string(),
    )?;
    let docker = docker.to_string_lossy().into_owned();
    scenario
        .add_host("host-a", |settings| {
            settings.environment.insert("DOCKER_CONFIG".to_owned(), docker);
        })
        .await?;
    let mut served = Served::over(scenario).await?;
    let registry = Registry::private(&served.scenario.lab)?;
    let v2 = registry.push(&served.scenario.repository, "v2", &AppImage::version("v2")).await?;
    served.assert_fails(&Stack::app(&v2), ReasonCode::RegistryDenied).await?;
    Ok(())
}

#[tokio::test]
async fn an_image_that_is_here_already_is_not_pulled_again() -> Result<()> {
    let mut served = Served::v1().await?;
    let proxy = RegistryProxy::before(&served.scenario.registry.address).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?.by_way_of(&proxy.address);
    served.scenario.succeed(&Stack::app(&v2)).await?;
    proxy.set(Mood::Denying);
    // The registry lets nobody in any more, yet the release that it brought can be deployed again.
    let v1 = served.v1.clone();
    served.scenario.succeed(&Stack::app(&v1)).await?;
    let outcome = served.scenario.succeed(&Stack::app(&v2)).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded);
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn dockers_credential_helpers_are_asked() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scenario = Scenario::without_hosts().await?;
    let folder = scenario.folder().join("helper");
    std::fs::create_dir_all(&folder)?;
    let private = scenario.lab.private_registry.clone();
    let answer =
        serde_json::json!({"ServerURL": private.address, "Username": private.user, "Secret": private.password});
    let helper = folder.join("docker-credential-lab");
    std::fs::write(&helper, format!("#!/bin/sh\ncat >/dev/null\ncat <<'JSON'\n{answer}\nJSON\n"))?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    let config = serde_json::json!({"credHelpers": {private.address.clone(): "lab"}});
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let folder = folder.to_string_lossy().into_owned();
    scenario
        .add_host("host-a", |settings| {
            settings.environment.insert("DOCKER_CONFIG".to_owned(), folder);
            settings.environment.insert("PATH".to_owned(), path);
        })
        .await?;
    let registry = Registry::private(&scenario.lab)?;
    let v1 = registry.push(&scenario.repository, "v1", &AppImage::version("v1")).await?;
    scenario.succeed(&Stack::app(&v1)).await?;
    scenario.assert_runs(&v1, "v1").await
}
