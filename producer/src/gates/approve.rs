//! `landfall approve` and `landfall reject`. Everybody who approves signs the same bytes, so that one message holds all approvals.

use clap::Args;
use landfall_bus::Bus;
use landfall_deploy::gates::approvals::{Approvals, count};
use landfall_deploy::gates::impossible_rule;
use landfall_schema::event::TYPE_APPROVED;
use landfall_schema::gates::{Approval, ApprovalRule, ApprovalVerdict, Approver};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName};
use landfall_schema::outcome::Reason;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{PublicKey, SigningKey, decode_header};
use landfall_schema::subject;

use super::reading::{self, Promoted, Word};
use super::saying::{self, SpeakerArgs, parse_note};
use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ApproveArgs {
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// The promotion's number. Default: the newest
    #[arg(value_name = "COUNTER", value_parser = parse_counter)]
    pub counter: Option<Counter>,
    /// For people to read
    #[arg(long, value_name = "TEXT", value_parser = parse_note)]
    pub note: Option<String>,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

#[derive(Debug, Args)]
pub struct RejectArgs {
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// The promotion's number. Default: the newest
    #[arg(value_name = "COUNTER", value_parser = parse_counter)]
    pub counter: Option<Counter>,
    /// Why, for whoever promoted
    #[arg(long, value_name = "TEXT", value_parser = parse_note)]
    pub reason: String,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

/// What a verdict is about.
struct Case {
    bus: Bus,
    env: EnvName,
    promoted: Promoted,
    rule: ApprovalRule,
    policy_author: String,
    key: SigningKey,
    word: Word,
}

pub async fn run(args: ApproveArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let case = Case::open(&args.app, args.counter, &args.speaker, cli).await?;
    let approver = case.approver()?;
    let Promotion { app, release, counter, .. } = &case.promoted.event.data;
    if case.promoted.signers().contains(&case.key.public()) {
        return Err(CliError::new(format!(
            "{} promoted {app} {release} themselves, and somebody else approves",
            approver.name
        ))
        .hint(format!("ask {}", others(&case.rule, &case.key.public())))
        .exit(ExitCode::Refused));
    }
    match case.standing() {
        Approvals::Rejected { by, note } => {
            return Err(CliError::new(format!("{by} has rejected {app} {release} (promotion {counter}): {note}"))
                .hint(format!("talk to {by}; `landfall promote {app}` makes a new promotion"))
                .exit(ExitCode::Refused));
        }
        Approvals::Impossible { people, need } => {
            let Reason { message, hint, .. } = impossible_rule(&case.env, people, need, &case.policy_author);
            return Err(CliError::new(message).hint(hint.unwrap_or_default()).exit(ExitCode::Refused));
        }
        Approvals::Enough | Approvals::Missing { .. } => {}
    }
    let own = case.word.said.as_ref().filter(|said| case.is_about(&said.data));
    let signed_already = own.is_some_and(|said| said.signers.contains(&case.key.public()));
    if signed_already {
        cli.output.note(format!("{} has approved it already", approver.name));
    } else if own.is_some() {
        if args.note.is_some() {
            cli.output.warn("the note is not kept: everybody signs the words of who approved first");
        }
        let mut signatures =
            decode_header(case.word.signature.as_deref()).map_err(|error| CliError::from_error(&error))?;
        signatures.push(case.key.sign(&case.word.body).map_err(|error| CliError::from_error(&error))?);
        saying::publish(&case.bus, &case.subject(), &case.word.body, &signatures, case.word.sequence).await?;
    } else {
        case.say(ApprovalVerdict::Approved, args.note.clone().unwrap_or_default(), &args.speaker.author()).await?;
    }
    case.tell(cli).await
}

pub async fn reject(args: RejectArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let case = Case::open(&args.app, args.counter, &args.speaker, cli).await?;
    case.approver()?;
    case.say(ApprovalVerdict::Rejected, args.reason.clone(), &args.speaker.author()).await?;
    case.tell(cli).await
}

impl Case {
    async fn open(
        app: &AppName,
        counter: Option<Counter>,
        speaker: &SpeakerArgs,
        cli: &Session,
    ) -> Result<Self, CliError> {
        let env = cli.env()?.clone();
        let app = cli.app(app)?;
        let key = speaker.own_key(cli)?;
        let bus = cli.bus().await?;
        let promoted = reading::promoted(&bus, &env, &app, counter, cli).await?;
        let policy = reading::policy(&bus, &env, cli).await?.data;
        let Some((rule, policy_author)) = policy.and_then(|policy| Some((policy.approvals?, policy.author))) else {
            return Err(CliError::new(format!("{env} asks for no approvals"))
                .hint(format!("see `landfall policy show --env {env}`")));
        };
        let keys: Vec<PublicKey> = rule.of.iter().map(|approver| approver.key.clone()).collect();
        let word = reading::word(&bus, &env, &app, &keys, cli).await?;
        Ok(Self { bus, env, promoted, rule, policy_author, key, word })
    }

    fn approver(&self) -> Result<&Approver, CliError> {
        let key = self.key.public();
        self.rule.of.iter().find(|approver| approver.key == key).ok_or_else(|| {
            let names: Vec<&str> = self.rule.of.iter().map(|approver| approver.name.as_str()).collect();
            CliError::new(format!(
                "the key {key} is none of those who approve for {} (policy by {}): {}",
                self.env,
                self.policy_author,
                names.join(", ")
            ))
            .hint("sign with another key: --key FILE")
            .exit(ExitCode::Refused)
        })
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.promoted.body)
    }

    fn is_about(&self, approval: &Approval) -> bool {
        approval.promotion == self.promoted.event.id
            && approval.digest == self.digest()
            && approval.verdict == ApprovalVerdict::Approved
    }

    fn standing(&self) -> Approvals {
        let said = self.word.said.as_ref();
        count(&self.rule, self.promoted.event.id, &self.digest(), said, &self.promoted.signers())
    }

    fn subject(&self) -> subject::Subject {
        subject::approved(&self.env, &self.promoted.event.data.app)
    }

    async fn say(&self, verdict: ApprovalVerdict, note: String, author: &str) -> Result<(), CliError> {
        let promotion = &self.promoted.event.data;
        let data = Approval {
            env: self.env.clone(),
            app: promotion.app.clone(),
            counter: promotion.counter,
            release: promotion.release.clone(),
            promotion: self.promoted.event.id,
            digest: self.digest(),
            verdict,
            note,
        };
        let event = saying::event(TYPE_APPROVED, author, data, None);
        saying::replace(&self.bus, &self.subject(), &event, &self.key, self.word.sequence).await
    }

    /// How it stands after that.
    async fn tell(mut self, cli: &Session) -> Result<ExitCode, CliError> {
        let keys: Vec<PublicKey> = self.rule.of.iter().map(|approver| approver.key.clone()).collect();
        let Promotion { app, release, counter, .. } = self.promoted.event.data.clone();
        self.word = reading::word(&self.bus, &self.env, &app, &keys, cli).await?;
        let env = &self.env;
        let (state, have, waiting_for) = match self.standing() {
            Approvals::Enough => ("approved", self.rule.need, Vec::new()),
            Approvals::Missing { have, waiting_for, .. } => ("waiting", have, waiting_for),
            Approvals::Rejected { .. } => ("rejected", 0, Vec::new()),
            Approvals::Impossible { .. } => ("impossible", 0, Vec::new()),
        };
        if cli.output.is_json() {
            cli.output.json(&serde_json::json!({
                "env": env, "app": app, "release": release, "counter": counter, "state": state,
                "have": have, "need": self.rule.need, "waiting_for": waiting_for,
            }))?;
            return Ok(ExitCode::Done);
        }
        let which = format!("{app} {release} (promotion {counter}) in {env}");
        cli.output.line(match state {
            "approved" => format!("{which} is approved: {have} of {have}"),
            "rejected" => format!("{which} is rejected; its hosts refuse it"),
            _ => format!("{which} has {have} of {} approvals, waiting for {}", self.rule.need, waiting_for.join(", ")),
        })?;
        Ok(ExitCode::Done)
    }
}

fn others(rule: &ApprovalRule, key: &PublicKey) -> String {
    let names: Vec<&str> =
        rule.of.iter().filter(|approver| approver.key != *key).map(|approver| approver.name.as_str()).collect();
    names.join(" or ")
}

pub fn parse_counter(text: &str) -> Result<Counter, String> {
    let number = text.strip_prefix('#').unwrap_or(text);
    number.parse().map(Counter).map_err(|_| format!("{text:?} is not the number of a promotion such as 7"))
}
