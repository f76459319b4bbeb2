//! Stacks that cannot work, and hosts that cannot take them: each fails for a clear reason before anything is touched.

use anyhow::Result;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::http;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::silent_engine::SilentEngine;
use landfall_tests::stack::Stack;

use crate::expect::{Served, ended};

#[tokio::test]
async fn a_compose_file_that_does_not_parse() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    for text in ["services:\n  app: [\n", "services: 7\n", "just words\n", "services:\n  app:\n    imagee: x\n"] {
        let reason = served.assert_fails(&Stack::raw(text, &[("app", &v2)]), ReasonCode::ComposeInvalid).await?;
        assert!(reason.hint.is_some(), "{reason:#?}");
    }
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_promotion_that_names_an_unknown_service() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = Stack::app(&v2).promise("aap", v2.pinned());
    let reason = served.assert_fails(&stack, ReasonCode::ServiceUnknown).await?;
    assert!(reason.message.contains("aap"), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_service_that_is_not_promised() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let text = format!("{}  worker:\n    image: {}\n", Stack::app(&v2).text(), v2.reference());
    let reason = served.assert_fails(&Stack::raw(&text, &[("app", &v2)]), ReasonCode::ImageMissing).await?;
    assert!(reason.message.contains("worker"), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_dependency_on_an_unknown_service() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let reason =
        served.assert_fails(&Stack::app(&v2).app_lines("depends_on: [db]"), ReasonCode::ComposeInvalid).await?;
    assert!(reason.message.contains("db"), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_service_with_build_only() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let text = format!("{}  worker:\n    build: .\n", Stack::app(&v2).text());
    let reason = served.assert_fails(&Stack::raw(&text, &[("app", &v2)]), ReasonCode::ImageMissing).await?;
    assert!(reason.message.contains("worker"), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn settings_that_are_wrong() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    for (settings, expect) in [("redy: {}", "redy"), ("ready: {interval_ms: 1}", "50"), ("role: boss", "boss")] {
        let reason = served.assert_fails(&Stack::app_with(&v2, settings), ReasonCode::SettingsInvalid).await?;
        assert!(reason.message.contains(expect), "{reason:#?}");
    }
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_compose_file_that_wants_power_over_the_host() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    for lines in ["privileged: true", "pid: host", "network_mode: host", "volumes: [\"/:/host\"]"] {
        let outcome = served.scenario.deploy(&Stack::app(&v2).app_lines(lines)).await?;
        ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::PolicyViolation);
        served.assert_untouched().await?;
    }
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_missing_env_file() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let env = served.scenario.host().directory.join(".env");
    let away = env.with_extension("away");
    std::fs::rename(&env, &away)?;
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::EnvFileMissing).await?;
    assert!(reason.message.contains("HTTP_PORT") || reason.message.contains(".env"), "{reason:#?}");
    std::fs::rename(&away, &env)?;
    let reason =
        served.assert_fails(&Stack::app(&v2).app_lines("env_file: [secrets.env]"), ReasonCode::EnvFileMissing).await?;
    assert!(reason.message.contains("secrets.env"), "{reason:#?}");
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_port_that_is_taken() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let occupant = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = occupant.local_addr()?.port();
    let stack = Stack::app(&v2)
        .app_lines(&format!("environment: {{OTHER: \"1\"}}\nports: !override [\"127.0.0.1:{port}:8080\"]"));
    let text = stack.text().replacen("    ports: [\"127.0.0.1:${HTTP_PORT}:8080\"]\n", "", 1).replace("!override ", "");
    let stack = Stack::raw(&text, &[("app", &v2)]);
    let outcome = served.scenario.deploy(&stack).await?;
    let reason = outcome.reason.clone().unwrap();
    assert_eq!(reason.code, ReasonCode::PortTaken, "{outcome:#?}");
    assert!(matches!(outcome.kind, OutcomeKind::DeployFailed | OutcomeKind::DeployRolledBack), "{outcome:#?}");
    assert!(reason.message.contains(&port.to_string()), "{reason:#?}");
    served.scenario.assert_runs(&served.v1, "v1").await?;
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_disk_that_is_too_full_for_a_pull() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    served.scenario.host().executor.terminate().await?;
    served.scenario.host().executor.settings.min_free_disk = "900000 GB".to_owned();
    served.scenario.start_executor(0).await?;
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::DiskFull).await?;
    assert!(reason.hint.is_some(), "{reason:#?}");
    assert!(!served.scenario.engine.images(&v2.repository)?.contains(&v2.digest), "the image was pulled all the same");

    // What is here already needs no room.
    served.scenario.succeed(&Stack::app(&served.v1.clone()).app_lines("environment: {AGAIN: \"1\"}")).await?;
    served.scenario.assert_serves("v1").await
}

#[tokio::test]
async fn an_engine_that_does_not_answer() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let silent = SilentEngine::start(served.scenario.folder())?;
    served.scenario.host().executor.terminate().await?;
    let real = std::mem::replace(&mut served.scenario.host().executor.settings.docker_host, silent.host.clone());
    served.scenario.start_executor(0).await?;
    let reason = served.assert_fails(&Stack::app(&v2), ReasonCode::EngineUnreachable).await?;
    assert!(reason.hint.is_some(), "{reason:#?}");

    served.scenario.host().executor.terminate().await?;
    served.scenario.host().executor.settings.docker_host = real;
    served.scenario.start_executor(0).await?;
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_registry_that_the_host_does_not_allow() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    let allowed = format!("{}/somewhere-else", scenario.registry.address);
    scenario.add_host("host-a", |settings| settings.allowed_registries = vec![allowed]).await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let outcome = scenario.deploy(&Stack::app(&v1)).await?;
    ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::PolicyViolation);
    let port = scenario.host().port;
    assert!(http::get(port, "/").await.is_err());
    Ok(())
}

#[tokio::test]
async fn secrets_of_the_host_are_never_published_nor_logged() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let env = served.scenario.host().directory.join(".env");
    let port = served.scenario.host().port;
    std::fs::write(&env, format!("HTTP_PORT={port}\nDB_PASSWORD=hunter2secret\n"))?;
    let secret = "environment: {DB_PASSWORD: \"${DB_PASSWORD}\"}";
    // One that fails while it is rendered, one that fails in Compose, one that prints it, and one that goes well.
    let leaky = served.scenario.push("leaky", AppImage::version("leaky").script("echo $DB_PASSWORD; exit 1")).await?;
    served.scenario.deploy(&Stack::app(&v2).app_lines(&format!("{secret}\nmem_limit: \"${{DB_PASSWORD}}\""))).await?;
    served.scenario.deploy(&Stack::app(&v2).app_lines(&format!("{secret}\nnetworks: [\"${{DB_PASSWORD}}\"]"))).await?;
    served.scenario.deploy(&Stack::app(&leaky).app_lines(secret)).await?;
    served.scenario.succeed(&Stack::app(&v2).app_lines(secret)).await?;
    for published in served.scenario.outcomes.seen() {
        let text = String::from_utf8_lossy(&published.message.body);
        assert!(!text.contains("hunter2secret"), "{text}");
    }
    let log = served.scenario.host().executor.whole_log()?;
    assert!(!log.contains("hunter2secret"), "the executor's log holds a secret");
    Ok(())
}
