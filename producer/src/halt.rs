//! `landfall halt`, `resume` and `abort`: what an operator says to a rollout under way.

pub mod said;

use std::collections::BTreeSet;

use clap::Args;
use landfall_bus::{Bus, BusError, Delivered};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_HALTED};
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::{RolloutPhase, RolloutState};
use landfall_schema::signature::{PublicKey, named_keys, verify};
use landfall_schema::subject;

use crate::ci;
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};
use crate::follow::words;
use crate::halt::said::Said;
use crate::plan::words::listed;
use crate::promoters::Promoters;
use crate::reading;
use crate::rollout::{RolloutView, state};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HaltArgs {
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// The promotion whose rollout is meant. Default: the newest
    #[arg(long, value_name = "NUMBER", value_parser = parse_counter)]
    pub promotion: Option<Counter>,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "no reason was given")]
    pub reason: String,
    /// Who says it. Default: what CI or the system says
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
}

pub async fn run(args: HaltArgs, command: HaltCommand, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let app = cli.app(&args.app)?;
    let key = cli.signing_key()?;
    let bus = cli.bus().await?;
    let (view, said) = read(&bus, &env, &app, args.promotion, cli).await?;
    let promotion = &view.promotion;
    let id = said.next_id();
    for warning in doubts(&view, &said, command, id) {
        cli.output.warn(warning);
    }
    check(&view, &said, command)?;
    let halt = Halt {
        env: env.clone(),
        app: app.clone(),
        counter: promotion.counter,
        promotion: view.id,
        command,
        reason: args.reason.clone(),
        author: args.author.clone().unwrap_or_else(|| ci::author(&process_environment)),
    };
    let source = format!("/landfall/producer/{}", halt.author);
    let event = CloudEvent::new(id, source, TYPE_HALTED, Timestamp::now(), halt);
    let body = event.encode().map_err(|error| CliError::from_error(&error).hint("shorten --reason"))?;
    let header = key.header(&body).map_err(|error| CliError::from_error(&error))?;
    let place = subject::halted(&env, &app);
    match bus.publish_expecting(&place, event.id, &body, Some(&header), None, said.sequence).await {
        Ok(_) => {}
        Err(BusError::Raced { .. }) => {
            return Err(CliError::new(format!("somebody else has just said something about {app}; nothing was said"))
                .hint(format!("see `landfall status {app} --env {env}`, then say it again"))
                .exit(ExitCode::Raced));
        }
        Err(error) => return Err(error.into()),
    }
    if cli.output.is_json() {
        cli.output.json(&event)?;
    }
    for line in told(&view, command) {
        cli.output.note(line);
    }
    Ok(ExitCode::Done)
}

/// The rollout as far as it is, and what was said about the application.
async fn read(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    counter: Option<Counter>,
    cli: &Session,
) -> Result<(RolloutView, Said), CliError> {
    let see = format!("see `landfall history {app} --env {env}`");
    // Who may write there, and nothing else, is not to take the brake away: what nobody signed replaces no promotion.
    let (messages, strangers) = Promoters::of(cli).believed(bus.promotions(env, Some(app)).await?);
    if strangers > 0 {
        cli.output.warn(format!(
            "{strangers} promotions of {app} are left out: no promoter that is trusted here signed them; see `trusted_promoters` of the context"
        ));
    }
    let promotions = reading::promotions(&messages, &cli.output);
    let newest = promotions.last().map(|read| read.event.data.counter);
    let found = match counter {
        Some(counter) => promotions.into_iter().rev().find(|read| read.event.data.counter == counter),
        None => promotions.into_iter().next_back(),
    };
    let Some(found) = found else {
        let what = counter.map_or("promotion".to_owned(), |counter| format!("promotion {counter}"));
        return Err(CliError::new(format!("{app} has no {what} in {env}")).hint(see));
    };
    let mut view = RolloutView::new(&found.event);
    let Some(keys) = state::Rosters::new(bus).of(&found.event.data.plan).await? else {
        let message = format!("{} has no rollout to speak of: its hosts do not act together", named(&view.promotion));
        return Err(CliError::new(message).hint("promote or roll back instead; that ends what is under way"));
    };
    if newest.is_some_and(|newest| newest > view.promotion.counter) {
        let newest = newest.unwrap_or(Counter::NONE);
        return Err(CliError::new(format!("{} was replaced by promotion {newest}", named(&view.promotion))).hint(see));
    }
    for message in bus.newest_outcomes(&subject::outcome_filter(env, Some(app))).await? {
        match keys.believe(&message) {
            Ok(said) => {
                view.fold(&said.data);
            }
            Err(why) => tracing::debug!(why, "an outcome is left out"),
        }
    }
    match state::read(bus, view.id, &view.promotion, &keys).await {
        Ok(state) => view.rollout = state.or(view.rollout),
        // The hosts write over what they do not believe, and do not wait for that.
        Err(error) => cli.output.warn(format!("how far the rollout is cannot be told: {error}")),
    }
    let promoted = messages.iter().find(|message| message.sequence == found.sequence);
    let known = known_keys(promoted, cli)?;
    let said = bus.said(&subject::halted(env, app)).await?;
    Ok((view, Said::new(&said, env, app, &known)))
}

/// Whose words count here: those that the context trusts, else whoever signed the promotion; and our own.
pub fn known_keys(promoted: Option<&Delivered>, cli: &Session) -> Result<Vec<PublicKey>, CliError> {
    let mut keys = cli.settings.trusted_promoters.clone();
    if let Some(Delivered { body, signature, .. }) = promoted.filter(|_| keys.is_empty()) {
        keys.extend(verify(body, signature.as_deref(), &named_keys(signature.as_deref())).ok());
    }
    keys.push(cli.signing_key()?.public());
    Ok(keys)
}

fn named_command(command: HaltCommand) -> &'static str {
    match command {
        HaltCommand::Halt => "halt",
        HaltCommand::Resume => "resume",
        HaltCommand::Abort => "abort",
    }
}

fn named(promotion: &Promotion) -> String {
    format!("promotion {} ({} {})", promotion.counter, promotion.app, promotion.release)
}

/// What nobody here can judge: words by unknown keys, and whether they stand above what is said next, under the id `next`.
fn doubts(view: &RolloutView, said: &Said, command: HaltCommand, next: EventId) -> Vec<String> {
    let about = said.doubtful.iter().filter(|(_, _, halt)| halt.promotion == view.id);
    let warning = |(id, key, halt): &(EventId, PublicKey, Halt)| {
        let what = named_command(halt.command);
        let mut text = format!(
            "{what} was said by {} ({}), signed by {key}, which is not known here; name it in `trusted_promoters` of the context if the hosts trust it",
            halt.author, halt.reason
        );
        // Nothing is refused for it: a stranger could else take the brake away.
        let why = match halt.command {
            HaltCommand::Abort => "an abort is not taken back",
            _ if *id > next => "its clock goes more than an hour ahead",
            _ => return text,
        };
        if command != HaltCommand::Abort {
            text += &format!("; {why}, so those heed that {what} and not this {}", named_command(command));
        }
        text
    };
    about.map(warning).collect()
}

/// Refuses what would have no effect.
fn check(view: &RolloutView, said: &Said, command: HaltCommand) -> Result<(), CliError> {
    let what = named(&view.promotion);
    let (app, env) = (&view.promotion.app, &view.promotion.env);
    if let Some(state) = &view.rollout
        && let Some(word) = state.word()
    {
        let message = format!("the rollout of {what} has ended already: it {}", words::past(word));
        return Err(CliError::new(message).hint(format!("to go back, `landfall rollback {app} --env {env}`")));
    }
    if let Some(RolloutPhase::RollingBack { .. }) = view.rollout.as_ref().map(|state| state.phase) {
        return Err(CliError::new(format!("{what} is going back already; that is not stopped half-way"))
            .hint(format!("follow it with `landfall watch {app} --env {env}`")));
    }
    let last = said.newest.as_ref().map(|(_, halt)| halt).filter(|halt| halt.promotion == view.id);
    // Of what a stranger says nobody here knows whether the hosts believe it: it forbids nothing, and may be taken back.
    let may_stand_otherwise = said.doubtful.iter().any(|(_, _, halt)| halt.promotion == view.id);
    match (command, last.map(|halt| (halt.command, halt))) {
        (_, Some((HaltCommand::Abort, halt))) => {
            Err(CliError::new(format!("{what} was aborted already, by {}: {}", halt.author, halt.reason))
                .hint(format!("follow it with `landfall watch {app} --env {env}`")))
        }
        _ if may_stand_otherwise => Ok(()),
        (HaltCommand::Resume, None | Some((HaltCommand::Resume, _))) => {
            Err(CliError::new(format!("{what} is not halted")).hint(format!("see `landfall status {app} --env {env}`")))
        }
        (HaltCommand::Halt, Some((HaltCommand::Halt, halt))) => {
            Err(CliError::new(format!("{what} is halted already, by {}: {}", halt.author, halt.reason))
                .hint(format!("`landfall resume {app} --env {env}` lets it go on, `landfall abort` ends it")))
        }
        _ => Ok(()),
    }
}

/// What was said, and what follows from it.
fn told(view: &RolloutView, command: HaltCommand) -> Vec<String> {
    let (app, env) = (&view.promotion.app, &view.promotion.env);
    let what = named(&view.promotion);
    let at = view.rollout.as_ref().map_or(String::new(), |state| format!("; {}", at_wave(state, view)));
    match command {
        HaltCommand::Halt => vec![
            format!("{what} is halted: no further host begins, those under way finish{at}"),
            format!(
                "let it go on with `landfall resume {app} --env {env}`, or end it with `landfall abort {app} --env {env}`"
            ),
        ],
        HaltCommand::Resume => vec![format!("{what} goes on{at}")],
        HaltCommand::Abort => {
            let (moved, still): (Vec<HostName>, Vec<HostName>) =
                view.promotion.plan.hosts().cloned().partition(|host| has_moved(view, host));
            let mut lines = vec![format!("{what} is aborted: no further host begins")];
            if !moved.is_empty() {
                lines.push(format!("these go back to what they ran before, and prove it: {}", listed(&moved)));
            }
            if !still.is_empty() {
                lines.push(format!("these have not moved, and stay as they are: {}", listed(&still)));
            }
            lines.push(format!("follow it with `landfall watch {app} --env {env}`"));
            lines
        }
    }
}

fn at_wave(state: &RolloutState, view: &RolloutView) -> String {
    words::of_state(state, &view.promotion.plan)
}

/// Whether the host's stack was or is being changed, as far as it has said.
fn has_moved(view: &RolloutView, host: &HostName) -> bool {
    let Some(view) = view.hosts.get(host) else { return false };
    let nouns: BTreeSet<&str> = view.steps.iter().map(|step| step.noun).chain(view.working_noun()).collect();
    let moved = ["stack", "readiness", "smoke", "traffic", "bake", "commit", "rollback"];
    let ended = |end: &Outcome| matches!(end.kind, OutcomeKind::DeploySucceeded | OutcomeKind::DeployStuck);
    match view.end() {
        Some(end) => ended(end),
        None => moved.iter().any(|noun| nouns.contains(noun)),
    }
}

/// `3` or `#3`.
fn parse_counter(text: &str) -> Result<Counter, String> {
    let number = text.strip_prefix('#').unwrap_or(text).parse();
    number.map(Counter).map_err(|_| format!("{text:?} is no number of a promotion, such as 3"))
}

#[cfg(test)]
#[path = "halt/tests.rs"]
mod tests;
