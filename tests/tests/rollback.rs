//! The one test every deployer needs, in all its forms: a broken release, and the old one still serving.

use anyhow::Result;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::http;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::{READY, Stack};

use crate::expect::{Served, ended};

#[tokio::test]
async fn a_release_that_never_gets_ready_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 800");
    let outcome = served.assert_rolls_back(&Stack::app_with(&v2, &ready), ReasonCode::Unhealthy).await?;
    let logs = outcome.reason.unwrap().logs;
    let told = logs.iter().flat_map(|tail| &tail.lines).any(|line| line.contains("cannot reach the payment service"));
    assert!(told, "the container's last words are not told: {logs:#?}");
    assert!(outcome.timings_ms.contains_key("rollback"), "{:?}", outcome.timings_ms);
    let kinds = served.scenario.outcomes.kinds("host-a", 2);
    for kind in [OutcomeKind::ReadinessFailed, OutcomeKind::RollbackStarted, OutcomeKind::RollbackRestored] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_health_check_that_fails_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let check = "healthcheck: {test: [CMD, test, -e, /healthy], interval: 100ms, timeout: 1s, retries: 2}";
    let stack = Stack::app_with(&v2, "ready: {deadline_ms: 5000, interval_ms: 50}").app_lines(check);
    served.assert_rolls_back(&stack, ReasonCode::Unhealthy).await?;
    Ok(())
}

#[tokio::test]
async fn a_container_that_ends_at_once_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2").exits(3)).await?;
    let outcome = served.assert_rolls_back(&Stack::app(&v2), ReasonCode::ContainerExited).await?;
    let reason = outcome.reason.unwrap();
    assert!(reason.message.contains('3'), "{reason:#?}");
    assert!(
        reason.logs.iter().flat_map(|tail| &tail.lines).any(|line| line.contains("no configuration")),
        "{reason:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_restart_loop_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    let stack = Stack::app(&v2).app_lines("restart: always");
    served.assert_rolls_back(&stack, ReasonCode::Restarting).await?;
    Ok(())
}

#[tokio::test]
async fn a_failed_http_smoke_test_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let smoke = "smoke:\n  - http: {url: \"http://127.0.0.1:${HTTP_PORT}/\", expect: {body: \"plans\"}}";
    let outcome = served.assert_rolls_back(&Stack::app(&v2).settings(smoke), ReasonCode::SmokeFailed).await?;
    assert!(outcome.reason.unwrap().message.contains("plans"));
    Ok(())
}

#[tokio::test]
async fn a_failed_smoke_command_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let smoke = "smoke:\n  - run: {service: check, command: [sh, -c, \"echo no plan was made; exit 4\"]}";
    let stack = Stack::app(&v2).service("check", &v2, "init: true", "role: smoke").settings(smoke);
    let outcome = served.assert_rolls_back(&stack, ReasonCode::SmokeFailed).await?;
    let reason = outcome.reason.unwrap();
    assert!(
        reason.logs.iter().flat_map(|tail| &tail.lines).any(|line| line.contains("no plan was made")),
        "{reason:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_smoke_test_that_hangs_is_ended_and_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    // Long enough for Compose to have started it, also on a busy machine.
    let smoke = "smoke_deadline_ms: 5000\nsmoke:\n  - run: {service: check, command: [sleep, \"600\"]}";
    let stack = Stack::app(&v2).service("check", &v2, "init: true", "role: smoke").settings(smoke);
    let outcome = served.scenario.deploy(&stack).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRolledBack, "{outcome:#?}");
    let code = outcome.reason.unwrap().code;
    assert!(matches!(code, ReasonCode::SmokeFailed | ReasonCode::DeadlineExceeded), "{code:?}");
    served.scenario.assert_runs(&served.v1, "v1").await?;
    let project = served.scenario.host().project.clone();
    let left = served.scenario.engine.containers(&project)?;
    assert_eq!(left.len(), 1, "the smoke test's container is still there");
    Ok(())
}

#[tokio::test]
async fn a_first_deploy_that_fails_takes_the_stack_down() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 500");
    let stack = Stack::app_with(&v1, &ready).app_lines("volumes: [data:/data]").top("volumes: {data: {}}");
    let outcome = scenario.deploy(&stack).await?;
    ended(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::Unhealthy);
    assert_eq!(outcome.former, None);
    let Some(host) = scenario.hosts.first() else { panic!("no host") };
    assert!(http::get(host.port, "/").await.is_err());
    assert!(scenario.engine.containers(&host.project)?.is_empty(), "containers are left");
    let volumes =
        scenario.engine.docker(&["volume", "ls", "--quiet", "--filter", &format!("name={}_data", host.project)])?;
    assert!(!volumes.trim().is_empty(), "the volume is gone");
    // The fixed release can be deployed then.
    let fixed = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&fixed)).await?;
    scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_stack_that_was_there_before_landfall_comes_back() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v0 = scenario.push("v0", AppImage::version("v0")).await?;
    let Some(host) = scenario.hosts.first() else { panic!("no host") };
    let file = host.directory.join("docker-compose.yml");
    std::fs::write(&file, Stack::app(&v0).text())?;
    let directory = host.directory.to_string_lossy().into_owned();
    let arguments = [
        "compose",
        "--project-name",
        &host.project,
        "--project-directory",
        &directory,
        "-f",
        &file.to_string_lossy(),
        "up",
        "-d",
    ];
    scenario.engine.docker(&arguments)?;
    scenario.assert_serves("v0").await?;

    let bad = scenario.push("v1", AppImage::version("v1").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 500");
    let outcome = scenario.deploy(&Stack::app_with(&bad, &ready)).await?;
    ended(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::Unhealthy);
    scenario.assert_serves("v0").await?;

    let good = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&good)).await?;
    scenario.assert_runs(&good, "v2").await?;
    // It was taken over: one container, not two.
    let project = scenario.host().project.clone();
    assert_eq!(scenario.engine.containers(&project)?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_former_release_with_other_services_comes_back_as_it_was() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let worker = scenario.push("worker", AppImage::version("worker").script("exec sleep 1000000")).await?;
    scenario.succeed(&Stack::app(&v1).service("worker", &worker, "init: true\nstop_grace_period: 1s", "")).await?;
    let bad = scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 500");
    let other = Stack::app_with(&bad, &ready).service("cache", &worker, "init: true\nstop_grace_period: 1s", "");
    let outcome = scenario.deploy(&other).await?;
    ended(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::Unhealthy);
    scenario.assert_runs(&v1, "v1").await?;
    let project = scenario.host().project.clone();
    let running: Vec<String> = scenario.engine.running_digests(&project)?.into_keys().collect();
    assert_eq!(running, ["app", "worker"]);
    Ok(())
}

#[tokio::test]
async fn a_rollback_that_fails_too_is_stuck() -> Result<()> {
    let mut served = Served::v1().await?;
    let bad = served.scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    // The new release is not published, and while it is proven somebody else takes the port.
    let text = Stack::app(&bad).text();
    let unpublished: String =
        text.lines().filter(|line| !line.contains("ports:")).map(|line| format!("{line}\n")).collect();
    let counter = served.scenario.promote(&Stack::raw(&unpublished, &[("app", &bad)])).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    let occupant = tokio::net::TcpListener::bind(("127.0.0.1", served.scenario.host().port)).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    let reason = ended(&outcome, OutcomeKind::DeployStuck, ReasonCode::RollbackFailed);
    assert!(reason.hint.is_some(), "{reason:#?}");
    let port = served.scenario.host().port.to_string();
    assert!(reason.message.contains("not ready") && reason.message.contains(&port), "{reason:#?}");

    // People free the port and promote what works.
    drop(occupant);
    served.assert_goes_on().await
}
