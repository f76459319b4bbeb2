//! Follows one promotion until every host of its plan has ended: what `--wait` does.
//!
//! [`words`] says outcomes in words; [`lines`] and [`bars`] print them, or the events themselves as JSON.

mod bars;
mod lines;
mod patience;
mod people;
pub mod words;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use landfall_bus::{Bus, BusError, Delivered, OutcomesFrom};
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::EventId;
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use crate::error::{CliError, ExitCode};
use crate::output::Output;
use crate::plan::HostKeys;
use crate::rollout::{Folded, RolloutView, state};
use crate::session::Session;

use bars::Bars;
use lines::{JsonLines, Lines};
use patience::{Due, Patience};

/// Between two attempts to read on after the bus broke off.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The outcomes of one application, from before its promotion was published.
pub struct Outcomes {
    bus: Bus,
    filter: String,
    /// Read on from here after an interruption.
    next: u64,
    stream: Pin<Box<dyn Stream<Item = Result<Delivered, BusError>> + Send>>,
}

impl Outcomes {
    /// Subscribes; what is published afterwards is seen.
    pub async fn subscribe(bus: &Bus, promotion: &Promotion) -> Result<Self, CliError> {
        let filter = subject::outcome_filter(&promotion.env, Some(&promotion.app));
        let stream = Box::pin(bus.outcomes(filter.clone(), OutcomesFrom::New).await?);
        Ok(Self { bus: bus.clone(), filter, next: 0, stream })
    }

    /// The next one, or what interrupted the reading; it can be asked for again. Cancel-safe: nothing that was read is lost.
    async fn next(&mut self) -> Result<Delivered, BusError> {
        match self.stream.next().await {
            Some(Ok(message)) => {
                self.next = message.sequence + 1;
                return Ok(message);
            }
            Some(Err(error)) => {
                sleep(RETRY_INTERVAL).await;
                return Err(error);
            }
            None => {}
        }
        sleep(RETRY_INTERVAL).await;
        // Before the first message this reads everything again; what belongs to other promotions is passed over.
        self.stream = Box::pin(self.bus.outcomes(self.filter.clone(), OutcomesFrom::Sequence(self.next)).await?);
        Box::pin(self.next()).await
    }
}

/// Prints what happens.
trait Narrator {
    /// An outcome that told something, and the bytes it came in.
    fn told(&mut self, outcome: &Outcome, body: &[u8], view: &RolloutView) -> Result<(), CliError>;
    /// Trouble on the way that does not end the waiting.
    fn trouble(&mut self, text: &str);
    /// Nothing more comes.
    fn end(&mut self);
}

fn narrator(output: &Output, view: &RolloutView) -> Box<dyn Narrator> {
    if output.is_json() {
        Box::new(JsonLines::new(output.clone()))
    } else if output.is_live() {
        Box::new(Bars::new(view))
    } else {
        Box::new(Lines::new(output.clone()))
    }
}

/// Follows the promotion, which has just been published, to its end, or for `timeout`.
pub async fn follow(
    cli: &Session,
    mut outcomes: Outcomes,
    event: &CloudEvent<Promotion>,
    keys: &HostKeys,
    timeout: Option<Duration>,
) -> Result<ExitCode, CliError> {
    let mut view = RolloutView::new(event);
    let mut narrator = narrator(&cli.output, &view);
    for outcome in view.tell_away() {
        narrator.told(&outcome, &own_event(event, &outcome)?, &view)?;
    }
    let mut patience = Patience::new(timeout);
    let (mut interrupted, mut terminated) = signals()?;
    let mut in_trouble = false;
    let mut told: BTreeSet<String> = BTreeSet::new();
    while !is_settled(&view) {
        let (at, what) = patience.next(&view);
        let message = tokio::select! {
            message = outcomes.next() => message,
            () = sleep_until(at) => match what {
                Due::Look => {
                    patience.looked();
                    learn_state(&outcomes.bus, event, keys, &mut view, &mut *narrator).await;
                    continue;
                }
                Due::End if patience.is_given_up() || view.word().is_some() || view.are_hosts_ended() => break,
                // The hosts' own time is over, but time for which people hold them up does not count.
                Due::End => match people::waited_for(&outcomes.bus, event, cli).await {
                    Some(on) => {
                        patience.hold();
                        let text = format!("the wait goes on: {on}");
                        if told.insert(text.clone()) {
                            narrator.trouble(&text);
                        }
                        continue;
                    }
                    None if patience.release() => {
                        told.clear();
                        continue;
                    }
                    None => break,
                },
            },
            _ = interrupted.recv() => return Ok(stopped(cli, &mut *narrator, event)),
            _ = terminated.recv() => return Ok(stopped(cli, &mut *narrator, event)),
        };
        match message {
            Ok(message) => {
                in_trouble = false;
                match keys.believe(&message) {
                    Ok(said) if view.fold(&said.data) == Folded::News => {
                        narrator.told(&said.data, &message.body, &view)?;
                    }
                    Ok(_) => {}
                    // Of a host that nobody knows, once for all its steps.
                    Err(why) if told.insert(why.clone()) => narrator.trouble(&why),
                    Err(_) => {}
                }
            }
            // Once is enough: the bus is asked again until the deadline.
            Err(error) if !in_trouble => {
                in_trouble = true;
                narrator.trouble(&format!("{error}; trying again until the deadline"));
            }
            Err(_) => {}
        }
    }
    if event.data.plan.is_coordinated() && view.word().is_none() {
        learn_state(&outcomes.bus, event, keys, &mut view, &mut *narrator).await;
        if view.word().is_none() {
            narrator.trouble("the rollout's last word did not come; this is judged by what the hosts said");
        }
    }
    let waited = timeout.filter(|_| patience.is_given_up());
    for outcome in view.end_waiting(waited) {
        let body = own_event(event, &outcome)?;
        narrator.told(&outcome, &body, &view)?;
    }
    narrator.end();
    finish(cli, &view)
}

/// Whether nothing more is waited for: of hosts that act together their last word and that of each host.
fn is_settled(view: &RolloutView) -> bool {
    view.is_ended() && view.are_hosts_ended()
}

/// Looks at the rollout's state itself: its last word may have been lost, or its host may have died before it said it.
async fn learn_state(
    bus: &Bus,
    event: &CloudEvent<Promotion>,
    keys: &HostKeys,
    view: &mut RolloutView,
    narrator: &mut dyn Narrator,
) {
    match state::read(bus, event.id, &event.data, keys).await {
        Ok(Some(state)) => {
            if view.learn(&state) == Folded::News && view.word().is_some() {
                narrator.trouble("the rollout's last word was read from its state");
            }
        }
        Ok(None) => {}
        Err(error) => narrator.trouble(&error.to_string()),
    }
}

/// The event that says of a host that it was not reached; nobody publishes it.
fn own_event(promotion: &CloudEvent<Promotion>, outcome: &Outcome) -> Result<Vec<u8>, CliError> {
    let id = EventId(Uuid::now_v7());
    let source = promotion.source.clone();
    CloudEvent::new(id, source, outcome.kind.event_type(), Timestamp::now(), outcome.clone())
        .encode()
        .map_err(|error| CliError::from_error(&error))
}

fn finish(cli: &Session, view: &RolloutView) -> Result<ExitCode, CliError> {
    // Without any host there is no end; a promotion always has one, be it away.
    let code = view.exit_code().unwrap_or(ExitCode::Error);
    if !cli.output.is_json() {
        let (header, rows) = view.summary();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        cli.output.table(&header, rows)?;
        cli.output.note(words::verdict(view, code));
    }
    Ok(code)
}

fn signals() -> Result<(Signal, Signal), CliError> {
    let failed = |error: std::io::Error| CliError::new("cannot listen for signals").because(&error);
    Ok((signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?))
}

fn stopped(cli: &Session, narrator: &mut dyn Narrator, event: &CloudEvent<Promotion>) -> ExitCode {
    narrator.end();
    let promotion = &event.data;
    cli.output.warn(format!(
        "stopped waiting; the deploy of {0} {1} goes on. Follow it with `landfall watch {0} --env {2}`, or see `landfall status {0} --env {2}`",
        promotion.app, promotion.release, promotion.env
    ));
    ExitCode::Interrupted
}
