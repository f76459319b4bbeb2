//! `landfall watch`: outcomes as they happen, a line each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{Stream, StreamExt as _};
use landfall_bus::{Bus, Delivered, OutcomesFrom};
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName, EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::PublicKey;
use landfall_schema::subject;
use owo_colors::OwoColorize as _;

use crate::error::{CliError, ExitCode};
use crate::host_keys::{Belief, HostKeys};
use crate::output::{self, Output};
use crate::plan::{self, words::as_verified};
use crate::promoters::{Promoters, Trust};
use crate::reading;
use crate::rollout::state::Rosters;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only this application
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Only this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostName>,
    /// Begin with everything that the bus still holds
    #[arg(long)]
    pub all: bool,
    /// Only how deploys end
    #[arg(long)]
    pub ends: bool,
    /// Stop after this many events
    #[arg(long, value_name = "COUNT")]
    pub count: Option<usize>,
}

/// After this many errors in a row the bus is given up; each one has waited for the server already.
const ERRORS_MAX: u32 = 20;

pub async fn run(args: WatchArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let app = args.app.as_ref().map(|app| cli.app(app)).transpose()?;
    let filters = match args.ends {
        true => vec![subject::terminal_filter(env, app.as_ref()), subject::rollout_filter(env, app.as_ref())],
        false => vec![subject::outcome_filter(env, app.as_ref())],
    };
    let from = if args.all { OutcomesFrom::All } else { OutcomesFrom::New };
    let mut events = bus.outcomes_among(filters, from).await?;
    let mut beliefs = Beliefs::new(&bus, env, cli).await?;
    let what = app.as_ref().map_or("all applications".to_owned(), ToString::to_string);
    cli.output.note(format!("watching {what} in {env}; stop with Ctrl-C"));

    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        let next = next(&mut events, |error| cli.output.warn(error.to_string())).await?;
        let message = next.ok_or_else(|| {
            CliError::new("the bus ended the stream of outcomes")
                .hint(format!("watch again; `landfall doctor --env {env}` tells whether the bus is well"))
        })?;
        if show(&message, &args, &mut beliefs, cli).await? {
            shown += 1;
        }
    }
    Ok(ExitCode::Done)
}

/// What comes next; errors before it are only told, up to [`ERRORS_MAX`].
async fn next<T, E>(events: &mut (impl Stream<Item = Result<T, E>> + Unpin), tell: impl Fn(E)) -> Result<Option<T>, E> {
    let mut errors = 0;
    loop {
        match events.next().await.transpose() {
            Err(error) if errors < ERRORS_MAX => {
                errors += 1;
                tell(error);
            }
            ended => return ended,
        }
    }
}

/// Returns whether the message was one to show.
async fn show(message: &Delivered, args: &WatchArgs, beliefs: &mut Beliefs, cli: &Session) -> Result<bool, CliError> {
    let Some(read) = reading::outcome(message) else {
        cli.output.warn(format!("event {} of {} cannot be read", message.sequence, message.subject));
        return Ok(false);
    };
    let outcome = &read.event.data;
    if args.host.as_ref().is_some_and(|host| outcome.host != *host) {
        return Ok(false);
    }
    if args.ends && outcome.kind.is_rollout() && outcome.rollout.as_ref().is_none_or(|state| state.word().is_none()) {
        return Ok(false);
    }
    let belief = match beliefs.judge(message, outcome).await {
        Ok(belief) => belief,
        Err(why) => {
            cli.output.warn(format!("{} of {} is not believed: {why}", outcome.kind, outcome.app));
            return Ok(false);
        }
    };
    if cli.output.is_json() {
        // As it came: fields that this version does not know are passed on.
        let mut event: serde_json::Value = serde_json::from_slice(&message.body)
            .map_err(|error| CliError::new("cannot read the event").because(&error))?;
        if let (Belief::Claimed, Some(event)) = (belief, event.as_object_mut()) {
            event.insert("unverified".to_owned(), true.into());
        }
        cli.output.json(&event)?;
        return Ok(true);
    }
    if outcome.kind == OutcomeKind::ImagePulling {
        return Ok(false);
    }
    for line in lines(outcome, read.event.time, belief) {
        cli.output.line(line)?;
    }
    Ok(true)
}

/// How far what is heard is believed: by the rosters of the plans, and by the keys that the context names or the hosts announce.
struct Beliefs {
    bus: Bus,
    env: EnvName,
    named: BTreeMap<HostName, PublicKey>,
    output: Output,
    rosters: Rosters,
    general: HostKeys,
    announced_at: Instant,
    /// By the promotion's event; `None` for one that there is not.
    promotions: BTreeMap<EventId, Option<(Promotion, Trust)>>,
    promoters: Promoters,
    keys: BTreeMap<EventId, HostKeys>,
}

/// Announced keys are read again at most this often.
const ANNOUNCED_INTERVAL: Duration = Duration::from_secs(5);

impl Beliefs {
    async fn new(bus: &Bus, env: &EnvName, cli: &Session) -> Result<Self, CliError> {
        let known = plan::known(bus, env, &cli.output).await?;
        let named = cli.settings.host_keys.clone();
        Ok(Self {
            bus: bus.clone(),
            env: env.clone(),
            rosters: Rosters::new(bus),
            general: HostKeys::new(&named, &known),
            named,
            output: cli.output.clone(),
            announced_at: Instant::now(),
            promotions: BTreeMap::new(),
            promoters: Promoters::of(cli),
            keys: BTreeMap::new(),
        })
    }

    async fn judge(&mut self, message: &Delivered, outcome: &Outcome) -> Result<Belief, String> {
        let failed = |error: CliError| error.to_string();
        if outcome.kind.is_rollout() {
            // It is for hosts of the plan to say, under the keys of its roster.
            let found = self.promotion(outcome).await.map_err(failed)?;
            let (promotion, _) = found
                .filter(|(_, trust)| *trust != Trust::Stranger)
                .ok_or("there is no such promotion by anybody trusted")?;
            if promotion.plan.place_of(&outcome.host).is_none() {
                return Err(format!("{} is no host of the plan", outcome.host));
            }
            let keys =
                self.rosters.of(&promotion.plan).await.map_err(failed)?.ok_or("its hosts do not act together")?;
            return keys.believe(message).map(|_| Belief::Proven);
        }
        let belief = self.keys(outcome).await.map_err(failed)?.judge(message, &outcome.host)?;
        if belief == Belief::Proven || self.announced_at.elapsed() < ANNOUNCED_INTERVAL {
            return Ok(belief);
        }
        // A host that has come since then has announced its key before it said anything else.
        self.announced_at = Instant::now();
        let known = plan::known(&self.bus, &self.env, &self.output).await.map_err(failed)?;
        self.general = HostKeys::new(&self.named, &known);
        self.keys.clear();
        self.keys(outcome).await.map_err(failed)?.judge(message, &outcome.host)
    }

    async fn keys(&mut self, outcome: &Outcome) -> Result<&HostKeys, CliError> {
        let id = outcome.promotion;
        if !self.keys.contains_key(&id) {
            let keys = match self.promotion(outcome).await? {
                Some((promotion, trust)) => {
                    let roster = self.rosters.of(&promotion.plan).await?;
                    roster.and_then(|roster| self.general.within(&roster, trust))
                }
                None => None,
            };
            let keys = keys.unwrap_or_else(|| self.general.clone());
            self.keys.insert(id, keys);
        }
        Ok(self.keys.get(&id).unwrap_or(&self.general))
    }

    async fn promotion(&mut self, outcome: &Outcome) -> Result<Option<(Promotion, Trust)>, CliError> {
        let id = outcome.promotion;
        if !self.promotions.contains_key(&id) {
            for message in self.bus.promotions(&outcome.env, Some(&outcome.app)).await? {
                let Some(read) = reading::promotion(&message) else { continue };
                let trust = self.promoters.trust(&message);
                let known = self.promotions.entry(read.event.id).or_insert(None);
                // Whoever copies a promotion's id has not its signer's key.
                if known.as_ref().is_none_or(|(_, known)| trust == Trust::Known && *known != Trust::Known) {
                    *known = Some((read.event.data, trust));
                }
            }
            self.promotions.entry(id).or_insert(None);
        }
        Ok(self.promotions.get(&id).cloned().flatten())
    }
}

/// The outcome in one line; below it, where something went wrong, what to do and the last lines of the logs.
fn lines(outcome: &Outcome, at: Timestamp, belief: Belief) -> Vec<String> {
    let kind = format!("{:<20}", outcome.kind.to_string());
    let kind = match outcome.kind {
        kind_of if kind_of.is_failure() => kind.red().to_string(),
        OutcomeKind::DeploySucceeded | OutcomeKind::RolloutSucceeded => kind.green().to_string(),
        _ => kind,
    };
    let took = outcome.duration_ms.map(output::duration).unwrap_or_default();
    let first = format!(
        "{} {} {} {} {} {kind} {took:>8}  {}",
        at.strftime("%H:%M:%S"),
        // What is said of a rollout is not about the host that says it.
        if outcome.kind.is_rollout() { "rollout" } else { outcome.host.as_str() },
        outcome.app,
        outcome.release,
        outcome.counter,
        outcome.message
    );
    let mut lines = vec![as_verified(first.trim_end(), belief == Belief::Proven)];
    let Some(reason) = &outcome.reason else { return lines };
    // The step that failed has told of its logs; the end of the deploy need not repeat them.
    if !outcome.kind.is_terminal() && !outcome.kind.is_rollout() {
        for tail in &reason.logs {
            lines.extend(tail.lines.iter().map(|line| format!("         {} | {line}", tail.source)));
        }
    }
    lines.extend(reason.hint.iter().map(|hint| format!("         hint: {hint}")));
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::event::CloudEvent;

    use super::*;

    fn shown(golden: &[u8]) -> Vec<String> {
        let event: CloudEvent<Outcome> = serde_json::from_slice(golden).unwrap();
        lines(&event.data, event.time, Belief::Proven)
    }

    #[test]
    fn a_step() {
        let lines = shown(include_bytes!("../../schema/golden/dev.landfall.image.pulled.v1.json"));
        let expect = "09:00:00 host-a shop v2 #2 image.pulled            1.2 s  shop v2: image.pulled";
        assert_eq!(lines, [expect]);
    }

    #[test]
    fn a_failure_shows_logs_and_what_to_do() {
        let lines = shown(include_bytes!("../../schema/golden/dev.landfall.readiness.failed.v1.json"));
        assert_eq!(
            lines[1..],
            ["         app | database is not reachable", "         hint: landfall history shop --env staging",]
        );
    }

    #[tokio::test]
    async fn so_many_errors_in_a_row_are_borne() {
        let trouble = |count: u32| (1..=count).map(Err).chain([Ok("event")]);
        for (count, ended) in [(ERRORS_MAX, Ok(Some("event"))), (ERRORS_MAX + 1, Err(ERRORS_MAX + 1))] {
            // They are in a row: after each event it is counted anew.
            let mut events = futures_util::stream::iter(trouble(1).chain(trouble(count)));
            assert_eq!(next(&mut events, |_| {}).await, Ok(Some("event")));
            let told = std::cell::Cell::new(0);
            assert_eq!(next(&mut events, |_| told.set(told.get() + 1)).await, ended, "{count}");
            assert_eq!(told.get(), ERRORS_MAX);
        }
        assert_eq!(next(&mut futures_util::stream::iter([] as [Result<(), ()>; 0]), |()| {}).await, Ok(None));
    }
}
