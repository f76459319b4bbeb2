//! The way back, in each of its forms.

use landfall_deploy::{Effect, Evidence};
use landfall_schema::outcome::ReasonCode;

use crate::lab::{App, Release, built, docker, free_port, image, registry};
use crate::releases::web;

#[tokio::test]
async fn a_release_that_dies_goes_back_to_the_former() {
    let mut app = App::new();
    let port = free_port();
    let (good, good_image) = web(&app, "good", port);
    app.deploy(&good).await;

    let (mut bad, _) = web(&app, "bad", port);
    bad.compose = bad.compose.replace(
        "[httpd, -f, -p, \"8080\", -h, /www]",
        "[sh, -c, 'echo starting; echo cannot go on with $$TOKEN; exit 3']",
    );
    let order = app.order(&bad);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let reason = app.carry_out(Effect::Prove, &order).await.unwrap_err();
    assert_eq!(reason.code, ReasonCode::ContainerExited);
    assert_eq!(reason.message, "service app: the container exited with code 3");
    assert_eq!(reason.logs[0].source, "app");
    assert_eq!(reason.logs[0].lines, ["starting", "cannot go on with ***"]);

    app.restart();
    // Somebody cleaned up by hand meanwhile: what is missing is fetched again.
    docker(&["image", "prune", "--all", "--force", "--filter", "label=none"]);
    // What a `compose run` leaves that is ended while the engine makes its container.
    let (project, image) = (format!("com.docker.compose.project={}", app.project), good_image.reference());
    let unstarted = [project.as_str(), "com.docker.compose.service=check", "com.docker.compose.oneoff=True"];
    let labels = unstarted.into_iter().chain(["dev.landfall.counter=2"]).flat_map(|label| ["--label", label]);
    let create: Vec<&str> = ["create"].into_iter().chain(labels).chain([image.as_str(), "true"]).collect();
    docker(&create);
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    let services = app.running(Effect::ProveFormer, &order).await;
    assert_eq!(services.len(), 2);
    assert!(services.values().all(|digest| *digest == good_image.digest));
    assert_eq!(app.containers(), ["app running", "worker running"]);
}

#[tokio::test]
async fn a_former_release_comes_back_with_the_settings_of_today_if_they_are_of_use() {
    let mut app = App::new();
    let port = free_port();
    let (mut good, _) = web(&app, "good", port);
    good.compose = good.compose.replace("    environment: {TOKEN", "    env_file: [more.env]\n    environment: {TOKEN");
    app.write("more.env", "MORE=1\n");
    app.deploy(&good).await;
    let (next, _) = web(&app, "next", port);
    let order = app.order(&next);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let environment = |app: &App| docker(&["inspect", "--format", "{{.Config.Env}}", &app.id("app")]);
    app.write(".env", "TOKEN=changed\n");
    app.write("more.env", "MORE=2\n");
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    assert!(["TOKEN=changed", "MORE=2"].iter().all(|one| environment(&app).contains(one)), "{}", environment(&app));

    app.carry_out(Effect::Update, &order).await.unwrap();
    app.write(".env", "this is no setting!\n");
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    assert!(["TOKEN=changed", "MORE=2"].iter().all(|one| environment(&app).contains(one)), "{}", environment(&app));

    // What was put in the place of a file is not read on the way back either.
    app.carry_out(Effect::Update, &order).await.unwrap();
    app.write(".env", "TOKEN=changed\n");
    let planted = app.config.stack.directory.join("more.env");
    std::fs::remove_file(&planted).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", &planted).unwrap();
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    assert!(environment(&app).contains("MORE=2") && !environment(&app).contains("root"), "{}", environment(&app));
    app.carry_out(Effect::Update, &order).await.unwrap();
    app.restart();
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap_err().code, ReasonCode::PolicyViolation);
}

#[tokio::test]
async fn a_former_release_comes_back_whatever_the_rules_are_today() {
    let mut app = App::new();
    let port = free_port();
    let (good, good_image) = web(&app, "former", port);
    app.deploy(&good).await;
    // As it was taken by an executor that did not mind.
    let former = &mut app.committed[0].bundle.compose[0].content;
    *former = former.replace("interval_ms: 50}}", "interval_ms: 50}, lock_timeout_ms: 0}");
    assert!(former.contains("lock_timeout_ms: 0"), "{former}");
    let refused = Release { compose: former.clone(), ..web(&app, "refused", port).0 };
    app.restart();

    let order = app.order(&refused);
    assert_eq!(app.observe(&order).await.unwrap_err().code, ReasonCode::SettingsInvalid);
    let (next, _) = web(&app, "next", port);
    let order = app.order(&next);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    app.restart();
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    let services = app.running(Effect::ProveFormer, &order).await;
    assert!(!services.is_empty() && services.values().all(|digest| *digest == good_image.digest));
}

#[tokio::test]
async fn a_release_that_never_becomes_ready() {
    let mut app = App::new();
    let (mut release, _) = web(&app, "unready", free_port());
    release.compose = release
        .compose
        .replace("{http: {port: 8080}, interval_ms: 50}", "{http: {port: 8080, path: /nothing}, deadline_ms: 700}");
    let order = app.order(&release);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let reason = app.carry_out(Effect::Prove, &order).await.unwrap_err();
    assert_eq!(reason.code, ReasonCode::Unhealthy);
    assert!(
        reason.message.starts_with("service app: not ready after 0.")
            && reason.message.contains("/nothing answered 404"),
        "{}",
        reason.message
    );

    // It was the first: nothing is left but volumes.
    assert_eq!(app.carry_out(Effect::Restore, &order).await.unwrap(), Evidence::Restored);
    assert!(app.containers().is_empty());
    assert!(app.running(Effect::ProveFormer, &order).await.is_empty());
}

#[tokio::test]
async fn a_crash_loop_and_a_failing_health_check() {
    let mut app = App::new();
    let image = image("loop", &[]);
    let release =
        Release::new("services: {app: {image: x, command: [\"false\"], restart: always}}", &[("app", &image)]);
    let order = app.order(&release);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let reason = app.carry_out(Effect::Prove, &order).await.unwrap_err();
    assert!(matches!(reason.code, ReasonCode::Restarting | ReasonCode::ContainerExited), "{reason:?}");

    let checked = r#"services: {app: {image: x, init: true, command: [sleep, "100"], healthcheck: {test: ["CMD", "false"], interval: 100ms, retries: 2}}}"#;
    let order = app.order(&Release::new(checked, &[("app", &image)]));
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let reason = app.carry_out(Effect::Prove, &order).await.unwrap_err();
    assert_eq!(reason.code, ReasonCode::Unhealthy);
    assert!(reason.message.contains("health check says unhealthy"), "{}", reason.message);
}

#[tokio::test]
async fn a_stack_from_before_landfall_comes_back() {
    let mut app = App::new();
    let (_, tag) = built(&registry(), "handmade", &[]);
    let handmade = format!(
        "services: {{app: {{image: '{tag}', init: true, command: [sleep, '1001']}}, extra: {{image: '{tag}', init: true, command: [sleep, '1002']}}}}"
    );
    app.write("docker-compose.yml", &handmade);
    let folder = app.directory.path().to_str().unwrap().to_owned();
    docker(&[
        "compose",
        "--project-name",
        &app.project,
        "--project-directory",
        &folder,
        "--file",
        &format!("{folder}/docker-compose.yml"),
        "up",
        "--detach",
    ]);
    let image_id = docker(&["inspect", "--format", "{{.Id}}", &tag]);

    let next = image("landfalled", &[]);
    let release = Release::new(
        "services: {app: {image: x, command: ['false']}, fresh: {image: x, init: true}}",
        &[("app", &next), ("fresh", &next)],
    );
    let order = app.order(&release);
    let former = app.observe(&order).await.unwrap().former.unwrap();
    assert_eq!((former.release, former.counter), (None, None));
    assert_eq!(
        former.images.iter().map(|(name, id)| (name.as_str(), id.as_str())).collect::<Vec<_>>(),
        [("app", image_id.as_str()), ("extra", &image_id)]
    );
    for effect in [Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    app.carry_out(Effect::Prove, &order).await.unwrap_err();
    app.restart();
    app.carry_out(Effect::Restore, &order).await.unwrap();
    assert_eq!(app.running(Effect::ProveFormer, &order).await, former.images);
    assert_eq!(app.containers(), ["app running", "extra running"]);
    let command = docker(&["inspect", "--format", "{{.Config.Cmd}}", &format!("{}-app-1", app.project)]);
    assert_eq!(command, "[sleep 1001]");
}
