//! Events that must not be believed, or not be followed: what is published, and that the old version serves on.

use std::time::Duration;

use anyhow::Result;
use landfall_schema::ids::{Counter, EnvName, EventId};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::signature::SigningKey;
use landfall_schema::{Timestamp, subject};
use landfall_tests::image::AppImage;
use landfall_tests::promotion::{Draft, Message};
use landfall_tests::stack::Stack;

use crate::expect::{Served, ended};

const LETTER_LIMIT: Duration = Duration::from_secs(10);

/// `v1` serves, and a promotion of `v2` is written but not yet published.
async fn v1_and_draft() -> Result<(Served, Draft)> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let draft = served.scenario.draft(&Stack::app(&v2))?;
    draft.store_bundle(&served.scenario.bus).await?;
    Ok((served, draft))
}

/// The message must become a dead letter, whole, with this reason; `v1` serves on, and good promotions are still followed.
async fn assert_dead_letter(served: &mut Served, message: &Message, code: ReasonCode) -> Result<()> {
    let sequence = message.publish(&served.scenario.bus).await?;
    let letter = served.scenario.outcomes.dead_letter(LETTER_LIMIT).await?.data;
    assert_eq!(letter.reason.code, code, "{letter:#?}");
    assert_eq!((letter.sequence, letter.subject.as_str()), (sequence, message.subject.as_str()));
    assert_eq!(letter.body_bytes, message.body.len() as u64);
    assert_eq!(letter.signature, message.signature);
    served.assert_untouched().await?;
    served.assert_goes_on().await
}

/// As above, and whoever waits for the promotion learns it too.
async fn assert_dead_letter_and_refusal(served: &mut Served, message: &Message, code: ReasonCode) -> Result<()> {
    assert_dead_letter(served, message, code).await?;
    let outcome = served.scenario.terminal(0, 2).await?;
    ended(&outcome, OutcomeKind::DeployRefused, code);
    assert_eq!(outcome.promotion, message.id);
    Ok(())
}

/// The message is believed, but refused for this reason.
async fn assert_refused(served: &mut Served, message: &Message, code: ReasonCode) -> Result<()> {
    message.publish(&served.scenario.bus).await?;
    let id = message.id;
    let ours = |outcome: &landfall_schema::outcome::Outcome| outcome.promotion == id && outcome.kind.is_terminal();
    let outcome = served.scenario.outcomes.wait("a refusal", LETTER_LIMIT, ours).await?;
    ended(&outcome, OutcomeKind::DeployRefused, code);
    served.assert_untouched().await?;
    served.assert_goes_on().await
}

#[tokio::test]
async fn an_unsigned_event_is_refused() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let message = Message { signature: None, ..draft.signed(&served.scenario.promoter)? };
    assert_dead_letter_and_refusal(&mut served, &message, ReasonCode::Unsigned).await
}

/// The register keeps one message: what a host that was away finds there is the copy, and behind it the original.
#[tokio::test]
async fn an_unsigned_copy_hides_no_promotion_from_a_host_that_was_away() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    served.scenario.host().executor.terminate().await?;
    let message = served.scenario.publish(&draft).await?;
    let copy = Message { signature: None, id: EventId(uuid::Uuid::now_v7()), ..message };
    copy.publish(&served.scenario.bus).await?;
    served.scenario.start_executor(0).await?;
    let letter = served.scenario.outcomes.dead_letter(LETTER_LIMIT).await?.data;
    assert_eq!(letter.reason.code, ReasonCode::Unsigned, "{letter:#?}");
    let outcome = served.scenario.terminal(0, draft.counter()).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let told = served.scenario.outcomes.kinds("host-a", draft.counter());
    assert!(!told.contains(&OutcomeKind::DeployRefused), "{told:?}");
    Ok(())
}

/// Whoever may write to the subject but has no key ends nothing that was promoted.
#[tokio::test]
async fn an_unsigned_copy_of_what_is_under_way_is_not_refused_in_its_name() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let draft = served.scenario.draft(&Stack::app(&v2).settings("bake_ms: 3000"))?;
    let message = served.scenario.publish(&draft).await?;
    served.scenario.reaches(0, draft.counter(), OutcomeKind::BakeStarted).await?;
    // Under another message id: past the server's own deduplication.
    let copy = Message { signature: None, id: EventId(uuid::Uuid::now_v7()), ..message };
    copy.publish(&served.scenario.bus).await?;
    let letter = served.scenario.outcomes.dead_letter(LETTER_LIMIT).await?.data;
    assert_eq!(letter.reason.code, ReasonCode::Unsigned, "{letter:#?}");
    let outcome = served.scenario.terminal(0, draft.counter()).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.assert_goes_on().await?;
    let told = served.scenario.outcomes.kinds("host-a", draft.counter());
    assert!(!told.contains(&OutcomeKind::DeployRefused), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn an_event_signed_by_a_stranger_is_refused() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let message = draft.signed(&SigningKey::generate())?;
    assert_dead_letter_and_refusal(&mut served, &message, ReasonCode::UntrustedKey).await
}

#[tokio::test]
async fn a_tampered_event_is_refused() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let mut message = draft.signed(&served.scenario.promoter)?;
    message.body = String::from_utf8(message.body)?.replace("\"author\":\"tests\"", "\"author\":\"eve\"").into_bytes();
    assert_dead_letter_and_refusal(&mut served, &message, ReasonCode::BadSignature).await
}

#[tokio::test]
async fn a_signature_of_other_bytes_is_refused() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let signature = served.scenario.promoter.header(b"something else")?;
    let message = Message { signature: Some(signature), ..draft.signed(&served.scenario.promoter)? };
    assert_dead_letter_and_refusal(&mut served, &message, ReasonCode::BadSignature).await
}

#[tokio::test]
async fn an_expired_event_is_refused() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    draft.event.data.expires_at = Timestamp::now() - Duration::from_secs(1);
    let message = draft.signed(&served.scenario.promoter)?;
    assert_refused(&mut served, &message, ReasonCode::Expired).await
}

#[tokio::test]
async fn an_event_of_a_foreign_environment_is_refused() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    let ours = subject::promoted(&served.scenario.env, &served.scenario.app).to_string();
    draft.event.data.env = EnvName::new("production")?;
    let message = Message { subject: ours, ..draft.signed(&served.scenario.promoter)? };
    assert_refused(&mut served, &message, ReasonCode::ForeignEnvironment).await
}

#[tokio::test]
async fn an_event_on_the_subject_of_a_foreign_environment_is_not_ours() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    draft.event.data.env = EnvName::new("production")?;
    draft.signed(&served.scenario.promoter)?.publish(&served.scenario.bus).await?;
    // The next promotion of ours comes after it; had the foreign one been looked at, its outcome would be there.
    served.assert_goes_on().await?;
    assert!(served.scenario.outcomes.seen().iter().all(|published| published.data.promotion != draft.event.id));
    Ok(())
}

#[tokio::test]
async fn a_lower_counter_is_refused() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    draft.event.data.counter = Counter(1);
    let message = draft.signed(&served.scenario.promoter)?;
    assert_refused(&mut served, &message, ReasonCode::StaleCounter).await
}

#[tokio::test]
async fn an_oversized_event_is_dead_lettered() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    draft.event.data.author = "x".repeat(66_000);
    let message = draft.signed(&served.scenario.promoter)?;
    assert_dead_letter(&mut served, &message, ReasonCode::Oversized).await
}

#[tokio::test]
async fn a_malformed_event_is_dead_lettered() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let body = b"{\"specversion\": \"1.0\", \"type\": ".to_vec();
    let signature = Some(served.scenario.promoter.header(&body)?);
    let message = Message { body, signature, ..draft.signed(&served.scenario.promoter)? };
    assert_dead_letter(&mut served, &message, ReasonCode::Malformed).await
}

#[tokio::test]
async fn an_event_of_an_unknown_version_is_dead_lettered() -> Result<()> {
    let (mut served, mut draft) = v1_and_draft().await?;
    draft.event.kind = "dev.landfall.release.promoted.v2".to_owned();
    let message = draft.signed(&served.scenario.promoter)?;
    assert_dead_letter(&mut served, &message, ReasonCode::UnknownVersion).await
}

#[tokio::test]
async fn unknown_fields_are_kept_under_the_signature() -> Result<()> {
    let (mut served, draft) = v1_and_draft().await?;
    let mut event = serde_json::to_value(&draft.event)?;
    event["data"]["added_in_a_later_v1"] = serde_json::json!({"some": "thing"});
    let body = serde_json::to_vec(&event)?;
    let signature = Some(served.scenario.promoter.header(&body)?);
    Message { body, signature, ..draft.signed(&served.scenario.promoter)? }.publish(&served.scenario.bus).await?;
    let outcome = served.scenario.terminal(0, 2).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_missing_bundle_and_a_changed_one_are_told() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let draft = served.scenario.draft(&Stack::app(&v2))?;
    draft.signed(&served.scenario.promoter)?.publish(&served.scenario.bus).await?;
    let outcome = served.scenario.terminal(0, 2).await?;
    ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::BundleMissing);
    served.assert_untouched().await?;

    // Under the name of the promised bundle stands another one.
    let draft = served.scenario.draft(&Stack::app(&v2).app_lines("mem_limit: 64m"))?;
    let other = Stack::app(&served.v1).bundle().encode()?.0;
    let reference = &draft.event.data.bundle;
    let store = served.scenario.bus.jetstream().get_object_store(landfall_schema::layout::BUNDLES).await?;
    store.put(reference.digest.as_str().replace(':', "-").as_str(), &mut other.as_slice()).await?;
    draft.signed(&served.scenario.promoter)?.publish(&served.scenario.bus).await?;
    let outcome = served.scenario.terminal(0, 3).await?;
    ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::BundleDigest);
    served.assert_untouched().await?;
    served.assert_goes_on().await
}
