//! Previews on a real host: made on demand, apart from the application, and gone when their time is over.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::Timestamp;
use landfall_schema::ids::AppName;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::promotion::{Intent, Preview};
use landfall_tests::http;
use landfall_tests::image::AppImage;
use landfall_tests::names;
use landfall_tests::process::until;
use landfall_tests::promotion::Draft;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::{DEPLOY_LIMIT, Scenario};
use landfall_tests::stack::{READY, Stack};

const LIFETIME: Duration = Duration::from_secs(600);

/// A host with `shop`, which takes previews of it.
async fn host() -> Result<Scenario> {
    let mut scenario = Scenario::without_hosts().await?;
    let template = scenario.folder().join("template");
    std::fs::create_dir_all(&template)?;
    std::fs::write(template.join(".env"), "KIND=preview\n")?;
    scenario
        .add_host("host-a", |settings| {
            settings.sections = format!("[previews.shop]\ndirectory = {template:?}\nmax_lifetime = \"1h\"\nmax = 1\n");
        })
        .await?;
    Ok(scenario)
}

/// The application on a port that the engine chooses, with a volume.
fn stack(image: &PushedImage) -> Stack {
    let text = format!(
        "services:\n  app:\n    image: {}\n    init: true\n    stop_grace_period: 1s\n    ports: [\"127.0.0.1::8080\"]\n    \
         environment: {{NAME: \"$LANDFALL_PREVIEW\", KIND: \"$KIND\"}}\n    volumes: [\"data:/data\"]\n    x-landfall:\n      {READY}\nvolumes: {{data: {{}}}}\n",
        image.reference()
    );
    Stack::raw(&text, &[("app", image)])
}

fn draft(scenario: &mut Scenario, image: &PushedImage, name: &str, lifetime: Duration) -> Result<Draft> {
    let mut draft = scenario.draft(&stack(image))?;
    let promotion = &mut draft.event.data;
    promotion.app = AppName::new(format!("shop--{name}"))?;
    promotion.preview =
        Some(Preview { of: AppName::new("shop")?, name: AppName::new(name)?, expires_at: Timestamp::now() + lifetime });
    Ok(draft)
}

async fn promote(scenario: &mut Scenario, draft: &Draft) -> Result<landfall_schema::outcome::Outcome> {
    scenario.publish(draft).await?;
    scenario.terminal(0, draft.counter()).await
}

async fn serves(scenario: &Scenario, project: &str) -> Result<String> {
    let container = scenario.engine.container_id(project, "app")?;
    let address = scenario.engine.docker(&["port", &container, "8080/tcp"])?;
    let port = address.trim().rsplit(':').next().context("a port")?.parse()?;
    http::get(port, "/").await
}

/// Nothing of the preview is on the host any more.
fn assert_gone(scenario: &Scenario, project: &str) -> Result<()> {
    let filter = format!("label=com.docker.compose.project={project}");
    for list in [["ps", "--all", "--quiet"], ["network", "ls", "--quiet"], ["volume", "ls", "--quiet"]] {
        let left = scenario.engine.docker(&[list.as_slice(), &["--filter", &filter]].concat())?;
        ensure!(left.trim().is_empty(), "{list:?} still shows {left}");
    }
    let images = scenario.engine.docker(&["images", "--format", "{{.Repository}}"])?;
    ensure!(!images.contains(&format!("landfall.local/{project}/")), "{images}");
    let state = scenario.hosts[0].executor.state_dir();
    for folder in [state.join("previews").join(project), state.join("stacks").join(project)] {
        ensure!(!folder.exists(), "{} is still there", folder.display());
    }
    Ok(())
}

#[tokio::test]
async fn a_preview_is_made_beside_the_application_and_removed() -> Result<()> {
    let mut scenario = host().await?;
    let v1 = scenario.deploy_v1().await?;
    let shop = scenario.container()?;
    let name = names::unique("pr");
    let project = format!("shop--{name}");
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    let made = draft(&mut scenario, &v2, &name, LIFETIME)?;
    let outcome = promote(&mut scenario, &made).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    assert_eq!(outcome.app.as_str(), project);
    assert_eq!(serves(&scenario, &project).await?, "v2");
    scenario.assert_runs(&v1, "v1").await?;
    let container = scenario.engine.container_id(&project, "app")?;
    let environment = scenario.engine.docker(&["inspect", "--format", "{{.Config.Env}}", &container])?;
    assert!(environment.contains(&format!("NAME={name}")) && environment.contains("KIND=preview"), "{environment}");
    let networks =
        scenario.engine.docker(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", &container])?;
    assert!(
        networks.contains(&format!("{project}_default")) && networks.matches("NetworkID").count() == 1,
        "{networks}"
    );

    // The next one is too many for this host; one for too long is refused as well.
    let other = draft(&mut scenario, &v2, &names::unique("pr"), LIFETIME)?;
    let refused = promote(&mut scenario, &other).await?;
    assert_eq!(refused.reason.unwrap().code, ReasonCode::PolicyViolation);
    let long = draft(&mut scenario, &v2, &name, LIFETIME * 10)?;
    assert_eq!(promote(&mut scenario, &long).await?.kind, OutcomeKind::DeployRefused);

    // Again after a restart of the executor: the journal knows it.
    scenario.host().executor.terminate().await?;
    scenario.start_executor(0).await?;
    let mut removal = draft(&mut scenario, &v2, &name, LIFETIME)?;
    removal.event.data.intent = Intent::Remove;
    let removed = promote(&mut scenario, &removal).await?;
    assert_eq!(removed.kind, OutcomeKind::DeploySucceeded, "{removed:#?}");
    let told = scenario.reaches(0, removal.counter(), OutcomeKind::StackRemoved).await?;
    assert!(told.message.starts_with("removed 1 container, 1 network, 1 volume"), "{}", told.message);
    assert_gone(&scenario, &project)?;
    assert_eq!(scenario.container()?, shop);
    Ok(())
}

#[tokio::test]
async fn a_preview_expires_by_itself() -> Result<()> {
    let mut scenario = host().await?;
    let name = names::unique("pr");
    let project = format!("shop--{name}");
    let image = scenario.push("v1", AppImage::version("v1")).await?;
    let lifetime = Duration::from_secs(12);
    let made = draft(&mut scenario, &image, &name, lifetime)?;
    assert_eq!(promote(&mut scenario, &made).await?.kind, OutcomeKind::DeploySucceeded);
    assert_eq!(serves(&scenario, &project).await?, "v1");
    let told = scenario.reaches(0, made.counter(), OutcomeKind::StackRemoved).await?;
    assert!(told.message.starts_with("the preview expired at ") && told.app.as_str() == project, "{}", told.message);
    assert_gone(&scenario, &project)
}

#[tokio::test]
async fn a_preview_that_expired_while_the_executor_was_off_is_removed_at_its_start() -> Result<()> {
    let mut scenario = host().await?;
    let name = names::unique("pr");
    let project = format!("shop--{name}");
    let image = scenario.push("v1", AppImage::version("v1")).await?;
    let made = draft(&mut scenario, &image, &name, Duration::from_secs(12))?;
    assert_eq!(promote(&mut scenario, &made).await?.kind, OutcomeKind::DeploySucceeded);
    scenario.host().executor.kill();
    let expires_at = made.event.data.preview.as_ref().map(|preview| preview.expires_at).context("a preview")?;
    until("its time is over", DEPLOY_LIMIT, async || {
        ensure!(Timestamp::now() > expires_at, "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(serves(&scenario, &project).await?, "v1");
    scenario.start_executor(0).await?;
    scenario.reaches(0, made.counter(), OutcomeKind::StackRemoved).await?;
    assert_gone(&scenario, &project)
}
