//! Names with slashes, spaces, 10,000 characters and shell metacharacters, by event and by command line.

use std::time::Duration;

use anyhow::Result;
use landfall_schema::outcome::ReasonCode;
use landfall_tests::image::AppImage;
use landfall_tests::promotion::Message;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use serde_json::{Value, json};

use crate::expect::Served;

const LETTER_LIMIT: Duration = Duration::from_secs(10);
const MARK: &str = "landfall-was-here";

fn bad_names() -> Vec<String> {
    let mut names = ["", "../../etc/passwd", "/", "a b", "a\nb", "a.b*", ">", "ünïcödé", "-v;", "a\u{0}b"]
        .map(str::to_owned)
        .to_vec();
    names.push("x".repeat(10_000));
    names.push(format!("$(touch /tmp/{MARK})"));
    names.push(format!("`touch /tmp/{MARK}`"));
    names.push(format!("shop; touch /tmp/{MARK} #"));
    names.push(format!("shop' || touch /tmp/{MARK} && '"));
    names
}

#[tokio::test]
async fn events_with_bad_names_are_dead_lettered() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    for name in bad_names() {
        let draft = served.scenario.draft(&Stack::app(&v2))?;
        let good = draft.signed(&served.scenario.promoter)?;
        let mut event = serde_json::to_value(&draft.event)?;
        for pointer in ["/data/app", "/data/env", "/data/release", "/data/plan/waves/0/hosts/0"] {
            let mut bad = event.clone();
            *bad.pointer_mut(pointer).unwrap() = json!(name);
            // A release may have a dot and a plus, so not every bad name is bad there.
            if pointer != "/data/release" || name.parse::<landfall_schema::ids::ReleaseName>().is_err() {
                assert_malformed(&mut served, &good, bad).await?;
            }
        }
        let image = event["data"]["images"]["app"].take();
        event["data"]["images"] = json!({ name: image });
        assert_malformed(&mut served, &good, event).await?;
    }
    served.assert_untouched().await?;
    assert!(!std::fs::exists(format!("/tmp/{MARK}"))?, "a name was run by a shell");
    served.assert_goes_on().await
}

async fn assert_malformed(served: &mut Served, like: &Message, event: Value) -> Result<()> {
    let body = serde_json::to_vec(&event)?;
    let signature = Some(served.scenario.promoter.header(&body)?);
    let id = landfall_schema::ids::EventId(uuid::Uuid::now_v7());
    Message { body, signature, id, ..like.clone() }.publish(&served.scenario.bus).await?;
    let letter = served.scenario.outcomes.dead_letter(LETTER_LIMIT).await?.data;
    assert_eq!(letter.reason.code, ReasonCode::Malformed, "{letter:#?}");
    assert!(letter.reason.message.len() < 2_000, "the reason repeats the whole name");
    Ok(())
}

#[tokio::test]
async fn image_names_and_variables_with_metacharacters_run_nothing() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    for repository in
        [format!("$(touch /tmp/{MARK})"), "--privileged".to_owned(), format!("127.0.0.1/a;touch /tmp/{MARK}")]
    {
        let mut pinned = v2.pinned();
        pinned.repository = repository;
        let outcome = served.scenario.deploy(&Stack::app(&v2).promise("app", pinned)).await?;
        assert!(outcome.kind.is_failure() && outcome.running.is_empty(), "{outcome:#?}");
        served.assert_untouched().await?;
    }
    // A value may be anything; it is passed on as it is.
    let stack = Stack::app(&v2).app_lines("environment: {GREETING: \"${GREETING}\"}");
    let mut draft = served.scenario.draft(&stack)?;
    draft.event.data.variables.insert("GREETING".to_owned(), format!("$(touch /tmp/{MARK}) `id` 'a' \"b\" $HOME"));
    served.scenario.publish(&draft).await?;
    let outcome = served.scenario.terminal(0, draft.counter()).await?;
    assert!(!outcome.kind.is_failure(), "{outcome:#?}");
    let project = served.scenario.host().project.clone();
    let container = served.scenario.engine.containers(&project)?.remove(0);
    let environment = container["Config"]["Env"].to_string();
    assert!(environment.contains(&format!("GREETING=$(touch /tmp/{MARK})")), "{environment}");
    assert!(!std::fs::exists(format!("/tmp/{MARK}"))?, "a value was run by a shell");
    Ok(())
}

#[tokio::test]
async fn the_command_line_refuses_bad_names() -> Result<()> {
    let scenario = Scenario::without_hosts().await?;
    let cli = scenario.cli()?;
    for name in bad_names().into_iter().filter(|name| !name.contains('\0')) {
        for arguments in [
            vec!["promote", name.as_str(), "--release", "v1"],
            vec!["promote", "shop", "--release", &name],
            vec!["--env", name.as_str(), "promote", "shop", "--release", "v1"],
            vec!["rollback", &name],
            vec!["history", &name],
        ] {
            let run = cli.run(&arguments).await?;
            assert_ne!(run.code, 0, "{arguments:.60?}");
            assert!(run.stderr.contains("error") && run.stderr.len() < 4_000, "{}", run.stderr);
            assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        }
    }
    assert!(!std::fs::exists(format!("/tmp/{MARK}"))?, "a name was run by a shell");
    assert!(scenario.bus.promotions(&scenario.env, None).await?.is_empty(), "something was promoted");
    Ok(())
}
