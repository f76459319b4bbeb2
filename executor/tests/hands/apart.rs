//! Environments side by side on one engine.

use landfall_deploy::{Effect, Evidence};
use landfall_schema::outcome::ReasonCode;

use crate::lab::{App, Release, docker, image};

const SLEEPER: &str = "services: {app: {image: x, init: true, command: [sleep, '1000']}, db: {image: x, init: true, command: [sleep, '2000']}}";

#[tokio::test]
async fn a_project_of_another_environment_is_refused_and_left_alone() {
    let mut staging = App::new();
    let image = image("apart", &[]);
    let release = Release::new(SLEEPER, &[("app", &image), ("db", &image)]);
    staging.deploy(&release).await;
    let label = |name: &str| {
        docker(&["inspect", "--format", &format!("{{{{index .Config.Labels \"{name}\"}}}}"), &staging.id("app")])
    };
    assert_eq!((label("dev.landfall.env"), label("dev.landfall.app")), ("test".to_owned(), "shop".to_owned()));
    let before = (staging.id("app"), staging.id("db"));

    let project = staging.project.clone();
    let mut production = App::reconfigured(|config| {
        config.env = "production".parse().unwrap();
        config.stack.project = Some(project);
    });
    let order = production.order(&release);
    let reason = production.observe(&order).await.unwrap_err();
    assert_eq!(reason.code, ReasonCode::ProjectTaken);
    assert!(reason.message.contains("belongs to shop of test, not to shop of production"), "{}", reason.message);
    assert!(reason.hint.unwrap().contains("project = \"…\" under [apps.shop]"));
    // Neither forward nor back, had it been begun before.
    for effect in [Effect::Update, Effect::Restore] {
        assert_eq!(production.carry_out(effect, &order).await.unwrap_err().code, ReasonCode::ProjectTaken);
    }
    assert_eq!((staging.id("app"), staging.id("db")), before);
}

#[tokio::test]
async fn containers_from_before_the_marks_are_not_replaced_for_them() {
    let mut app = App::new();
    let (one, two) = (image("unmarked", &[]), image("unmarked", &[]));
    let compose = SLEEPER.replace("db: {image: x", &format!("db: {{image: '{}'", one.reference()));
    // As a version that made no marks left it: pinned, and without labels.
    app.write("docker-compose.yml", &compose.replace("image: x", &format!("image: '{}'", one.reference())));
    let folder = app.directory.path().to_str().unwrap().to_owned();
    docker(&["compose", "--project-name", &app.project, "--project-directory", &folder, "up", "--detach"]);
    let (db, old) = (app.id("db"), app.id("app"));

    let release = Release::new(&compose, &[("app", &two), ("db", &one)]);
    app.deploy(&release).await;
    assert_eq!(app.id("db"), db, "an unchanged service was replaced for its label");
    assert_ne!(app.id("app"), old);
    let marked = |id: &str| docker(&["inspect", "--format", "{{index .Config.Labels \"dev.landfall.env\"}}", id]);
    assert_eq!((marked(&app.id("app")).as_str(), marked(&db).as_str()), ("test", ""));
    // And the next deploy leaves all as it is.
    let order = app.order(&release);
    app.observe(&order).await.unwrap();
    assert_eq!(app.carry_out(Effect::Update, &order).await.unwrap(), Evidence::Updated { changed: vec![] });
}
