//! The rules of an environment, on real parts: what they forbid never touches what serves, and what they hold up goes on by itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use landfall_schema::event::{CloudEvent, TYPE_ENVIRONMENT_POLICY};
use landfall_schema::gates::{EnvironmentPolicy, Evidence};
use landfall_schema::ids::{Counter, EventId};
use landfall_schema::outcome::{Outcome, OutcomeKind, ReasonCode};
use landfall_schema::promotion::Intent;
use landfall_schema::signature::{DsseEnvelope, SigningKey};
use landfall_schema::{Timestamp, subject};
use landfall_tests::cli::{Cli, Run};
use landfall_tests::image::AppImage;
use landfall_tests::outcomes::Outcomes;
use landfall_tests::promotion::Draft;
use landfall_tests::scenario::{DEPLOY_LIMIT, Scenario};
use landfall_tests::stack::{READY, Stack};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;
use uuid::Uuid;

use crate::expect::{Served, ended};

const DONE: i32 = 0;
const REFUSED: i32 = 6;
const NOT_REACHED: i32 = 7;
const PRODUCTION: &str = "production";

/// One host under rules, on which `v1` serves, and those who set the rules.
struct Ruled {
    served: Served,
    admin: SigningKey,
    cli: Cli,
}

impl Ruled {
    async fn v1() -> Result<Self> {
        let admin = SigningKey::generate();
        let mut scenario = Scenario::without_hosts().await?;
        scenario.add_host("host-a", |settings| settings.admins = vec![admin.public().to_string()]).await?;
        let cli = scenario.cli()?;
        let served = Served::over(scenario).await?;
        let ruled = Self { served, cli, admin };
        let key = ruled.key_file("admin", &ruled.admin)?;
        Ok(Self { cli: ruled.cli.clone().variable("LANDFALL_ADMIN_KEY_FILE", &key.to_string_lossy()), ..ruled })
    }

    fn key_file(&self, name: &str, key: &SigningKey) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.cli.home().join(format!("{name}.seed"));
        std::fs::write(&path, key.seed()?)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// `landfall ARGUMENTS`, which must end with this code.
    async fn landfall(&self, code: i32, arguments: &[&str]) -> Result<Run> {
        let run = self.cli.run(arguments).await?;
        assert_eq!(run.code, code, "landfall {}: {run:?}", arguments.join(" "));
        Ok(run)
    }

    async fn apply_policy(&self, env: &str, text: &str) -> Result<()> {
        std::fs::write(self.cli.home().join("policy.toml"), text)?;
        self.landfall(DONE, &["policy", "apply", "policy.toml", "--env", env, "--author", "ann"]).await?;
        Ok(())
    }

    /// A promotion of this version, published past every check of the CLI.
    async fn publish(&mut self, version: &str) -> Result<Draft> {
        let scenario = &mut self.served.scenario;
        let image = scenario.push(version, AppImage::version(version)).await?;
        let draft = scenario.draft(&Stack::app(&image))?;
        scenario.publish(&draft).await?;
        Ok(draft)
    }

    /// The host says that it waits, and for what; nothing is touched meanwhile.
    async fn waits(&mut self, counter: u64, words: &str) -> Result<()> {
        let said = self.served.scenario.reaches(0, counter, OutcomeKind::ReleaseWaiting).await?;
        assert!(said.message.contains(words), "{words:?} is not in {:?}", said.message);
        self.served.assert_untouched().await
    }

    /// The host says at some time that it waits, in these words.
    async fn waits_for(&mut self, counter: u64, words: &[&str]) -> Result<()> {
        let is_it = |outcome: &Outcome| {
            (outcome.counter.0, outcome.kind) == (counter, OutcomeKind::ReleaseWaiting)
                && words.iter().all(|words| outcome.message.contains(words))
        };
        self.served.scenario.outcomes.wait(&format!("waiting: {words:?}"), DEPLOY_LIMIT, is_it).await?;
        Ok(())
    }

    async fn succeeds(&mut self, counter: u64, version: &str) -> Result<()> {
        let outcome = self.served.scenario.terminal(0, counter).await?;
        assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
        self.served.scenario.assert_serves(version).await
    }

    async fn is_refused(&mut self, counter: u64, code: ReasonCode, words: &str) -> Result<Outcome> {
        let outcome = self.served.scenario.terminal(0, counter).await?;
        let reason = ended(&outcome, OutcomeKind::DeployRefused, code);
        assert!(reason.message.contains(words), "{words:?} is not in {:?}", reason.message);
        assert!(reason.hint.is_some(), "{reason:#?}");
        Ok(outcome)
    }
}

#[tokio::test]
async fn a_freeze_holds_promotions_up_and_lets_rollbacks_pass() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    // A second release, so that there is something to go back to.
    let v2 = ruled.publish("v2").await?;
    ruled.succeeds(v2.counter(), "v2").await?;
    let freeze = ["freeze", "--reason", "the sale", "--until", "2h", "--author", "bob"];
    let run = ruled.landfall(DONE, &freeze).await?;
    assert!(run.stdout.contains("the sale") && run.stdout.contains("bob"), "{run:?}");

    // The CLI refuses to publish, and says by whom, why, until when, and what passes.
    let image = ruled.served.scenario.push("v3", AppImage::version("v3")).await?;
    let file = ruled.served.scenario.compose_file("v3", &Stack::app(&image))?;
    let run = ruled.landfall(REFUSED, &["promote", "shop", "--file", &file]).await?;
    for words in ["bob", "the sale", "frozen until", "landfall unfreeze", "landfall rollback shop"] {
        assert!(run.stderr.contains(words), "{words}: {run:?}");
    }

    // What is published all the same waits, and touches nothing.
    let draft = ruled.served.scenario.draft(&Stack::app(&image))?;
    ruled.served.scenario.publish(&draft).await?;
    let said = ruled.served.scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseWaiting).await?;
    assert!(said.message.contains("frozen until") && said.message.contains("bob: the sale"), "{said:#?}");
    ruled.served.scenario.assert_serves("v2").await?;

    // A rollback comes through, and takes the place of what waits.
    let run = ruled.landfall(DONE, &["rollback", "shop", "--to", "r1", "--wait"]).await?;
    assert!(run.stderr.contains("r1"), "{run:?}");
    ruled.served.scenario.assert_serves("v1").await?;
    let waited = ruled.served.scenario.terminal(0, draft.counter()).await?;
    assert_eq!(waited.kind, OutcomeKind::DeploySuperseded, "{waited:#?}");

    // Thawed, a promotion that waits goes on by itself.
    let again = draft_of(&mut ruled, &Stack::app(&image), 5)?;
    ruled.served.scenario.publish(&again).await?;
    ruled.served.scenario.reaches(0, 5, OutcomeKind::ReleaseWaiting).await?;
    ruled.landfall(DONE, &["unfreeze"]).await?;
    ruled.succeeds(5, "v3").await
}

#[tokio::test]
async fn a_rollback_passes_a_freeze_also_on_a_host_that_came_later() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    let v2 = ruled.publish("v2").await?;
    ruled.succeeds(v2.counter(), "v2").await?;
    let admins = vec![ruled.admin.public().to_string()];
    ruled.served.scenario.add_host("host-b", |settings| settings.admins = admins).await?;
    ruled.served.scenario.terminal(1, v2.counter()).await?;
    ruled.landfall(DONE, &["freeze", "--reason", "the sale", "--until", "2h"]).await?;
    ruled.landfall(DONE, &["rollback", "shop", "--to", "r1", "--wait"]).await?;
    ruled.served.scenario.assert_serves("v1").await
}

#[tokio::test]
async fn a_wait_goes_on_while_people_are_waited_for() -> Result<()> {
    let ruled = Ruled::v1().await?;
    let bob = SigningKey::generate();
    let policy = format!("approvals = {{ need = 1, of = [{{ name = \"bob\", key = \"{}\" }}] }}\n", bob.public());
    ruled.apply_policy("test", &policy).await?;
    let image = ruled.served.scenario.push("v2", AppImage::version("v2")).await?;
    let file = ruled.served.scenario.compose_file("v2", &Stack::app(&image))?;
    let promote = ["promote", "shop", "--file", &file, "--wait", "--deadline", "2s"];
    let run = ruled.landfall(NOT_REACHED, &[&promote[..], &["--timeout", "1s"]].concat()).await?;
    assert!(run.stderr.contains("did not end within 1.0 s"), "{run:?}");

    let mut child = ruled.cli.command(&promote)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let Some(stderr) = child.stderr.take() else { panic!("it has no stderr") };
    let mut lines = BufReader::new(stderr).lines();
    let mut told = Vec::new();
    while !told.iter().any(|line: &String| line.contains("the wait goes on: 0 of 1 approvals")) {
        let line = timeout(Duration::from_secs(30), lines.next_line()).await??;
        told.push(line.unwrap_or_else(|| panic!("it ended: {told:?}")));
    }
    ruled.served.assert_untouched().await?;
    let key = ruled.key_file("bob", &bob)?;
    ruled.landfall(DONE, &["approve", "shop", "--key", &key.to_string_lossy()]).await?;
    while lines.next_line().await?.is_some() {}
    assert_eq!(child.wait().await?.code(), Some(DONE), "{told:?}");
    ruled.served.scenario.assert_serves("v2").await
}

/// The counter is chosen: the CLI has published as well.
fn draft_of(ruled: &mut Ruled, stack: &Stack, counter: u64) -> Result<Draft> {
    let mut draft = ruled.served.scenario.draft(stack)?;
    draft.event.data.counter = Counter(counter);
    Ok(draft)
}

#[tokio::test]
async fn a_freeze_that_outlasts_the_promotion_refuses_it() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    ruled.landfall(DONE, &["freeze", "--app", "shop", "--reason", "audit", "--until", "2h"]).await?;
    let image = ruled.served.scenario.push("v2", AppImage::version("v2")).await?;
    let mut draft = ruled.served.scenario.draft(&Stack::app(&image))?;
    draft.event.data.expires_at = Timestamp::now() + std::time::Duration::from_secs(4);
    ruled.served.scenario.publish(&draft).await?;
    ruled.is_refused(draft.counter(), ReasonCode::Frozen, "audit").await?;
    ruled.served.assert_untouched().await
}

#[tokio::test]
async fn approvals_are_counted_without_the_author_and_a_rejection_ends_it() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    let (bob, cid) = (SigningKey::generate(), SigningKey::generate());
    let promoter = ruled.served.scenario.promoter.public();
    let of = [("dan", &promoter), ("bob", &bob.public()), ("cid", &cid.public())]
        .map(|(name, key)| format!("{{ name = \"{name}\", key = \"{key}\" }}"))
        .join(", ");
    ruled.apply_policy("test", &format!("approvals = {{ need = 2, of = [{of}] }}\n")).await?;
    let [bob, cid] = [("bob", &bob), ("cid", &cid)].map(|(name, key)| ruled.key_file(name, key));
    let (bob, cid) = (bob?.to_string_lossy().into_owned(), cid?.to_string_lossy().into_owned());

    let draft = ruled.publish("v2").await?;
    ruled.waits(draft.counter(), "0 of 2 approvals for test (policy by ann), waiting for bob, cid").await?;
    let run = ruled.landfall(REFUSED, &["approve", "shop"]).await?;
    assert!(run.stderr.contains("dan promoted") && run.stderr.contains("ask bob or cid"), "{run:?}");
    let run = ruled.landfall(DONE, &["approve", "shop", "--key", &bob]).await?;
    assert!(run.stdout.contains("1 of 2 approvals, waiting for cid"), "{run:?}");
    // Once more by the same person is still one.
    let run = ruled.landfall(DONE, &["approve", "shop", "2", "--key", &bob, "--output", "json"]).await?;
    assert_eq!(run.json()?["have"], 1, "{run:?}");
    ruled.served.assert_untouched().await?;
    let run = ruled.landfall(DONE, &["approve", "shop", "--key", &cid]).await?;
    assert!(run.stdout.contains("is approved"), "{run:?}");
    ruled.succeeds(draft.counter(), "v2").await?;

    // An approval is of one promotion; the next one waits anew, and one rejection is enough.
    let draft = ruled.publish("v3").await?;
    ruled.served.scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseWaiting).await?;
    ruled.landfall(DONE, &["reject", "shop", "--reason", "not before the sale", "--key", &cid]).await?;
    ruled.is_refused(draft.counter(), ReasonCode::Rejected, "cid rejected").await?;
    ruled.served.scenario.assert_serves("v2").await?;
    let stranger = ruled.key_file("stranger", &SigningKey::generate())?.to_string_lossy().into_owned();
    let run = ruled.landfall(REFUSED, &["approve", "shop", "--key", &stranger]).await?;
    assert!(run.stderr.contains("is none of those who approve"), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn what_did_not_work_is_condemned_until_somebody_absolves_it() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    let bad = ruled.served.scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 800");
    let stack = Stack::app_with(&bad, &ready);
    ruled.served.assert_rolls_back(&stack, ReasonCode::Unhealthy).await?;
    let container = ruled.served.scenario.container()?;

    let counter = ruled.served.scenario.promote(&stack).await?;
    ruled.is_refused(counter, ReasonCode::Condemned, "r2 (promotion #2) was rolled back, says host-a").await?;
    assert_eq!(ruled.served.scenario.container()?, container, "the container was replaced");
    let run = ruled.landfall(DONE, &["absolve", "shop"]).await?;
    assert!(run.stdout.contains("r2") && run.stdout.contains("host-a"), "{run:?}");
    ruled.landfall(DONE, &["absolve", "shop", "r2", "--reason", "the database was down", "--author", "ann"]).await?;

    // It may be tried again; and when it fails again, it is condemned again.
    let outcome = ruled.served.scenario.deploy(&stack).await?;
    ended(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::Unhealthy);
    let counter = ruled.served.scenario.promote(&stack).await?;
    ruled.is_refused(counter, ReasonCode::Condemned, "promotion #4").await?;
    // That it is called a rollback changes nothing: it never worked.
    let mut draft = ruled.served.scenario.draft(&stack)?;
    draft.event.data.intent = Intent::Rollback { to: Counter(4) };
    ruled.served.scenario.publish(&draft).await?;
    ruled.is_refused(draft.counter(), ReasonCode::Condemned, "promotion #4").await?;
    ruled.served.assert_goes_on().await
}

#[tokio::test]
async fn a_policy_that_no_admin_signed_stops_everything_until_it_is_replaced() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    ruled.apply_policy("test", "").await?;
    let stranger = SigningKey::generate();
    let policy = EnvironmentPolicy {
        env: ruled.served.scenario.env.clone(),
        requires: None,
        approvals: None,
        freeze_windows: Vec::new(),
        author: "mallory".to_owned(),
    };
    let id = EventId(Uuid::now_v7());
    let event = CloudEvent::new(id, "/test", TYPE_ENVIRONMENT_POLICY, Timestamp::now(), policy);
    let body = event.encode()?;
    let bus = ruled.served.scenario.bus.clone();
    let to = subject::environment_policy(&ruled.served.scenario.env);
    bus.publish_signed(&to, id, &body, Some(&stranger.header(&body)?), None).await?;
    let draft = ruled.publish("v2").await?;
    ruled.is_refused(draft.counter(), ReasonCode::PolicyUnreadable, "no signature is by a trusted key").await?;
    ruled.served.assert_untouched().await?;

    // An old one that is published again is no new one, however well it is signed.
    let strict = "[[freeze_windows]]\ncron = \"* * * * *\"\nlasts = \"1h\"\nreason = \"always\"\n";
    ruled.apply_policy("test", strict).await?;
    let all = bus.said(&to).await?;
    let Some(old) = all.first() else { panic!("nothing was said") };
    bus.publish_signed(&to, EventId(Uuid::now_v7()), &old.body, old.signature.as_deref(), None).await?;
    let draft = ruled.publish("v3").await?;
    ruled.is_refused(draft.counter(), ReasonCode::PolicyUnreadable, "an older one that was published again").await?;
    ruled.apply_policy("test", "").await?;
    let draft = ruled.publish("v4").await?;
    ruled.succeeds(draft.counter(), "v4").await
}

/// The host keeps to what it has read. The CLI reads the bus, so what it does about a rule that is not there leads nowhere: the host says
/// what comes first.
#[tokio::test]
async fn rules_that_the_bus_has_lost_are_said_anew_before_they_are_met() -> Result<()> {
    let mut ruled = Ruled::v1().await?;
    let bob = SigningKey::generate();
    let policy = format!("approvals = {{ need = 1, of = [{{ name = \"bob\", key = \"{}\" }}] }}\n", bob.public());
    let bob = ruled.key_file("bob", &bob)?.to_string_lossy().into_owned();
    ruled.apply_policy("test", "").await?;
    let older = TempDir::new()?;
    ruled.served.scenario.nats.down().await?;
    ruled.served.scenario.nats.copy_store(older.path())?;
    ruled.served.scenario.nats.up().await?;
    ruled.apply_policy("test", &policy).await?;
    ruled.landfall(DONE, &["freeze", "--reason", "the sale", "--until", "2h", "--author", "ann"]).await?;
    let draft = ruled.publish("v2").await?;
    ruled.waits(draft.counter(), "0 of 1 approvals").await?;
    let said = ruled.served.scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseWaiting).await?;
    assert!(!said.message.contains("lost"), "{said:#?}");

    // The bus has the policy before this one, and no freeze at all.
    ruled.served.scenario.nats.down().await?;
    ruled.served.scenario.nats.replace_store(Some(older.path()))?;
    ruled.served.scenario.nats.up().await?;
    ruled.served.scenario.outcomes = Outcomes::follow(&ruled.served.scenario.bus);
    let draft = ruled.publish("v3").await?;
    let anew = "; the bus has lost this policy: `landfall policy apply FILE --env test` says it anew";
    ruled.waits_for(draft.counter(), &["0 of 1 approvals", anew]).await?;
    let approve = ["approve", "shop", "--key", &bob];
    let run = ruled.cli.run(&approve).await?;
    assert!(run.code != DONE && run.stderr.contains("test asks for no approvals"), "{run:?}");
    ruled.apply_policy("test", &policy).await?;
    ruled.landfall(DONE, &approve).await?;
    let anew = "ann: the sale; the bus has lost this freeze: `landfall unfreeze --all --env test` ends it";
    ruled.waits_for(draft.counter(), &[anew]).await?;
    let run = ruled.landfall(DONE, &["unfreeze"]).await?;
    assert!(run.stderr.contains("test is not frozen; nothing was published"), "{run:?}");
    ruled.served.assert_untouched().await?;
    ruled.landfall(DONE, &["unfreeze", "--all"]).await?;
    ruled.succeeds(draft.counter(), "v3").await
}

/// `test` is where a release is proven, and `production`, on the same engine, requires that.
async fn staged() -> Result<Ruled> {
    let mut ruled = Ruled::v1().await?;
    let admin = ruled.admin.public().to_string();
    let change = |settings: &mut landfall_tests::executor::Settings| {
        settings.env = PRODUCTION.to_owned();
        settings.admins = vec![admin];
    };
    ruled.served.scenario.add_host("prod-a", change).await?;
    ruled.apply_policy(PRODUCTION, "requires = \"test\"\n").await?;
    Ok(ruled)
}

fn smoked(image: &landfall_tests::registry::PushedImage) -> Stack {
    let smoke = "smoke:\n  - http: {url: \"http://127.0.0.1:${HTTP_PORT}/\", expect: {status: 200}}";
    Stack::app(image).settings(smoke)
}

#[tokio::test]
async fn what_is_proven_in_staging_goes_to_production() -> Result<()> {
    let mut ruled = staged().await?;
    let v2 = ruled.served.scenario.push("v2", AppImage::version("v2")).await?;
    let file = ruled.served.scenario.compose_file("v2", &smoked(&v2))?;
    // Straight to production: the CLI says what is missing.
    let direct = ["promote", "shop", "--file", &file, "--env", PRODUCTION];
    let run = ruled.landfall(REFUSED, &direct).await?;
    assert!(
        run.stderr.contains("carries no evidence") && run.stderr.contains("--from test --to production"),
        "{run:?}"
    );

    let to = ["promote", "shop", "--from", "test", "--to", PRODUCTION, "--wait"];
    // `v1` had no smoke test.
    let run = ruled.landfall(REFUSED, &to).await?;
    assert!(run.stderr.contains("no smoke test passed on host-a"), "{run:?}");
    ruled.landfall(DONE, &["promote", "shop", "--file", &file, "--release", "v2", "--wait"]).await?;
    let run = ruled.landfall(DONE, &to).await?;
    assert!(run.stderr.contains("shop v2 as it succeeded in test"), "{run:?}");
    let outcome = ruled.served.scenario.terminal(1, 1).await?;
    assert_eq!(outcome.running.values().collect::<Vec<_>>(), [&v2.digest], "{outcome:#?}");
    let port = ruled.served.scenario.hosts[1].port;
    assert_eq!(landfall_tests::http::get(port, "/").await?, "v2");

    // A rollback on this host needs no proof anew.
    let v3 = ruled.served.scenario.push("v3", AppImage::version("v3")).await?;
    let file = ruled.served.scenario.compose_file("v3", &smoked(&v3))?;
    ruled.landfall(DONE, &["promote", "shop", "--file", &file, "--release", "v3", "--wait"]).await?;
    ruled.landfall(DONE, &to).await?;
    ruled.landfall(DONE, &["rollback", "shop", "--env", PRODUCTION, "--wait"]).await?;
    assert_eq!(landfall_tests::http::get(port, "/").await?, "v2");
    Ok(())
}

#[tokio::test]
async fn evidence_that_is_not_what_it_says_is_refused() -> Result<()> {
    let mut ruled = staged().await?;
    let v2 = ruled.served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = smoked(&v2);
    let mut staged = ruled.served.scenario.draft(&stack)?;
    staged.event.data.plan.waves[0].hosts.truncate(1);
    let message = ruled.served.scenario.publish(&staged).await?;
    let outcome = ruled.served.scenario.terminal(0, staged.counter()).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let (bus, env, app) = {
        let scenario = &ruled.served.scenario;
        (scenario.bus.clone(), scenario.env.clone(), scenario.app.clone())
    };
    let host = ruled.served.scenario.hosts[0].name.clone();
    let envelope = async |kind| {
        let said = bus.last_outcome(&subject::outcome(&env, &app, &host, kind)).await?;
        let Some(said) = said else { panic!("{host} has not said {kind}") };
        anyhow::Ok(DsseEnvelope::published(&said.body, said.signature.as_deref())?)
    };
    let promotion = DsseEnvelope::published(&message.body, message.signature.as_deref())?;
    let (succeeded, smoke) = (envelope(OutcomeKind::DeploySucceeded).await?, envelope(OutcomeKind::SmokePassed).await?);
    let whole = Evidence { promotion, outcomes: vec![succeeded.clone(), smoke.clone()] };
    let forger = SigningKey::generate();
    let forged = {
        let body = smoke.unverified_payload().unwrap_or_default();
        let mut signature = forger.sign(&body)?;
        signature.keyid.clone_from(&smoke.signatures[0].keyid);
        DsseEnvelope::new(&body, vec![signature])
    };
    let v3 = ruled.served.scenario.push("v3", AppImage::version("v3")).await?;
    let cases = [
        ("wrong digest", smoked(&v3), whole.clone(), "service app is sha256:"),
        (
            "no smoke test",
            stack.clone(),
            Evidence { outcomes: vec![succeeded.clone()], ..whole.clone() },
            "no smoke test passed",
        ),
        (
            "forged",
            stack.clone(),
            Evidence { outcomes: vec![succeeded, forged], ..whole.clone() },
            "was not signed by host-a",
        ),
    ];
    for (number, (what, stack, evidence, words)) in cases.into_iter().enumerate() {
        let draft = for_production(&mut ruled, &stack, number as u64 + 1, Some(evidence))?;
        ruled.served.scenario.publish(&draft).await?;
        let outcome = ruled.served.scenario.terminal(1, draft.counter()).await?;
        let reason = ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::NotProvenElsewhere);
        assert!(reason.message.contains(words), "{what}: {reason:#?}");
        let project = &ruled.served.scenario.hosts[1].project;
        assert!(ruled.served.scenario.engine.containers(project)?.is_empty(), "{what}: something was started");
    }
    let draft = for_production(&mut ruled, &stack, 4, Some(whole))?;
    ruled.served.scenario.publish(&draft).await?;
    let outcome = ruled.served.scenario.terminal(1, 4).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");

    // A rollback to what never ran here is no way around it.
    let mut draft = for_production(&mut ruled, &smoked(&v3), 5, None)?;
    draft.event.data.intent = Intent::Rollback { to: Counter(1) };
    ruled.served.scenario.publish(&draft).await?;
    let outcome = ruled.served.scenario.terminal(1, 5).await?;
    ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::NotProvenElsewhere);
    Ok(())
}

/// A promotion of this stack for the host of `production` alone.
fn for_production(ruled: &mut Ruled, stack: &Stack, counter: u64, evidence: Option<Evidence>) -> Result<Draft> {
    let mut draft = draft_of(ruled, stack, counter)?;
    let data = &mut draft.event.data;
    data.env = PRODUCTION.parse()?;
    data.plan.waves[0].hosts.remove(0);
    data.evidence = evidence;
    Ok(draft)
}
