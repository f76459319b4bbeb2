//! Makes the rollout's next state from what the hosts have signed. Several hosts do; the compare-and-set lets one of them win, and that one
//! says what was decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use landfall_bus::{Bus, BusError, Delivered, Entry, OutcomesFrom};
use landfall_deploy::Order;
use landfall_deploy::gates::Gate;
use landfall_deploy::rollout::{Facts, View, decide, first_state};
use landfall_schema::Timestamp;
use landfall_schema::halt::HaltCommand;
use landfall_schema::ids::{Counter, HostName};
use landfall_schema::layout::{PRESENCE_MAX_AGE, ROLLOUT};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};
use landfall_schema::roster::Roster;
use landfall_schema::subject;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use super::reading::believe_outcome;
use super::stored::{Known, Stored};
use super::{Fleet, FleetError, RETRY_INTERVAL, rank};
use crate::causes;
use crate::failpoint::failpoint;
use crate::pace::{Throttle, jittered};
use crate::world;

/// Deadlines are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Who is present, and what operators said, is read again this often while something is waited for.
const REFRESH: Duration = Duration::from_secs(5);
/// Outcomes that are taken in before it is decided once more: in a large fleet many come at a time, and to decide looks at every host.
const OUTCOMES_AT_ONCE: usize = 256;

/// Besides how deploys end.
const HEARD: [OutcomeKind; 6] = [
    OutcomeKind::ReleaseAccepted,
    OutcomeKind::StackUpdating,
    OutcomeKind::ReleaseCommitted,
    OutcomeKind::DriftDetected,
    OutcomeKind::DriftRepaired,
    OutcomeKind::DriftFailed,
];
/// A host that never saw the state hears for so long what the others have said, before it writes over what is not believed.
const SPOILT_WAIT: Duration = Duration::from_secs(3);
/// Whoever decided the last word tells of it within this time; then others do.
const TELL_WAIT: Duration = Duration::from_secs(5);
/// A last word that nobody has heard for longer is history.
const TELL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Decider {
    fleet: Fleet,
    order: Order,
    view: View,
    state: RolloutState,
    revision: u64,
    /// What lies in the bucket does not count, and is written over.
    is_spoilt: bool,
    /// As it lies in the bucket; `None` before anybody decided anything.
    known: Option<Known>,
    /// This host has told of it.
    is_told: bool,
    began: Instant,
    /// When this phase and wave were first seen.
    since: Instant,
    present: BTreeSet<HostName>,
    aborted: Option<String>,
    superseded_by: Option<Counter>,
}

impl Decider {
    pub(super) fn new(fleet: Fleet, order: Order) -> Self {
        Self {
            view: View::new(order.id),
            state: first_state(&order),
            revision: 0,
            is_spoilt: false,
            known: None,
            is_told: false,
            began: Instant::now(),
            since: Instant::now(),
            present: order.promotion.plan.hosts().cloned().collect(),
            aborted: None,
            superseded_by: None,
            fleet,
            order,
        }
    }

    /// Until the rollout has ended, and that was told.
    pub(super) async fn run(mut self) {
        let Some(delay) = rank::delay(&self.order) else { return };
        sleep(delay).await;
        let mut trouble = Throttle::default();
        while self.goes_on() {
            if let Err(error) = self.follow().await
                && let Some(untold) = trouble.tell()
            {
                warn!(app = %self.order.promotion.app, error = causes(&error), untold, "the rollout cannot be followed; trying again");
            }
            if self.goes_on() {
                sleep(jittered(RETRY_INTERVAL)).await;
            }
        }
        self.make_heard().await;
    }

    fn goes_on(&self) -> bool {
        self.state.word().is_none() || self.is_spoilt
    }

    /// Until the rollout has ended, or something is wrong.
    async fn follow(&mut self) -> Result<(), FleetError> {
        let bus = self.fleet.inner.bus.connected().ok_or(FleetError::Away)?;
        let roster = self.fleet.roster(&bus, &self.order).await?;
        let promotion = &self.order.promotion;
        let mut filters: Vec<String> =
            HEARD.iter().map(|kind| subject::outcome_kind_filter(&promotion.env, &promotion.app, *kind)).collect();
        filters.push(subject::terminal_filter(&promotion.env, Some(&promotion.app)));
        let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
        let hints = [subject::rollout_subject(&key), subject::release_filter(&promotion.env, &promotion.app)];
        let mut heard = self.fleet.listen(&hints).await?;
        let outcomes = bus.outcomes_among(filters, OutcomesFrom::NewestOfEach).await?;
        let mut outcomes = outcomes.ready_chunks(OUTCOMES_AT_ONCE);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look_around(&bus).await?;
        let mut refreshed = Instant::now();
        self.reload(&bus, &roster).await?;
        while self.goes_on() {
            tokio::select! {
                // However much is said, what is due is looked at.
                biased;
                _ = tick.tick() => {
                    if refreshed.elapsed() >= REFRESH {
                        refreshed = Instant::now();
                        self.reload(&bus, &roster).await?;
                        self.look_around(&bus).await?;
                    }
                }
                tick = heard.next() => {
                    if tick.is_none() {
                        return Err(FleetError::Away);
                    }
                    self.reload(&bus, &roster).await?;
                    self.look_around(&bus).await?;
                }
                said = outcomes.next() => {
                    let news = self.fold(said.ok_or(FleetError::Away)?, &roster)?;
                    if !news {
                        continue;
                    }
                }
            }
            self.act(&bus, &roster).await?;
        }
        Ok(())
    }

    /// Takes outcomes in; returns whether they told anything new.
    fn fold(&mut self, said: Vec<Result<Delivered, BusError>>, roster: &Roster) -> Result<bool, FleetError> {
        let mut news = false;
        for said in said {
            let said = said?;
            match believe_outcome(&said, roster) {
                Ok(outcome) => news |= self.view.fold(&outcome),
                Err(why) => debug!(subject = said.subject, why, "an outcome is not counted"),
            }
        }
        Ok(news)
    }

    /// Decides as often as there is something to decide.
    async fn act(&mut self, bus: &Bus, roster: &Arc<Roster>) -> Result<(), FleetError> {
        loop {
            let facts = Facts {
                order: &self.order,
                state: &self.state,
                view: &self.view,
                present: &self.present,
                aborted: self.aborted.as_deref(),
                superseded_by: self.superseded_by,
                elapsed_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            let (next, is_new) = match decide(&facts) {
                Some(next) => (next, true),
                None if self.is_spoilt && (self.known.is_some() || self.began.elapsed() >= SPOILT_WAIT) => {
                    (RolloutState { decided_by: self.order.host.clone(), ..self.state.clone() }, false)
                }
                None => return Ok(()),
            };
            let promotion = &self.order.promotion;
            let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
            let now = world::now();
            let body = self.fleet.inner.announcer.rollout_state(&next, now);
            let body: Bytes = body.map_err(|error| FleetError::State(causes(&error)))?.into();
            failpoint!("rollout.decide.before");
            let written = bus.write_entry(ROLLOUT, &key, body.clone(), self.revision).await;
            failpoint!("rollout.decide.after");
            match written {
                Ok(revision) => {
                    let before = self.state.clone();
                    let known = Known::new(next, &Entry { revision, body, written_at: now });
                    self.fleet.inner.states.keep(self.order.id, known.clone());
                    self.is_spoilt = false;
                    self.accept(known);
                    if is_new {
                        self.announce(&before, now).await;
                    }
                }
                Err(error @ BusError::Raced { .. }) => {
                    let former = self.revision;
                    self.reload(bus, roster).await?;
                    if self.revision == former {
                        return Err(error.into());
                    }
                }
                Err(error) => {
                    // The answer may have been lost on its way: then the entry is ours, and is told by us.
                    let before = self.state.clone();
                    self.reload(bus, roster).await?;
                    if self.state != next {
                        return Err(error.into());
                    }
                    if is_new {
                        self.announce(&before, now).await;
                    }
                }
            }
        }
    }

    async fn reload(&mut self, bus: &Bus, roster: &Roster) -> Result<(), FleetError> {
        let Stored { known, revision, spoilt } = self.fleet.stored(bus, &self.order, roster).await?;
        if let Some(known) = known {
            self.accept(known);
        }
        self.revision = revision;
        self.is_spoilt = spoilt.is_some();
        Ok(())
    }

    fn accept(&mut self, known: Known) {
        if (known.state.phase, known.state.wave) != (self.state.phase, self.state.wave) {
            self.since = Instant::now();
        }
        self.state = known.state.clone();
        self.revision = known.revision;
        self.known = Some(known);
    }

    /// Who is present, what operators said, whether a newer promotion came.
    async fn look_around(&mut self, bus: &Bus) -> Result<(), FleetError> {
        let promotion = &self.order.promotion;
        self.present = if self.needs_presence() {
            present(&bus.presence(&promotion.env).await?)
        } else {
            promotion.plan.hosts().cloned().collect()
        };
        let halt = self.fleet.halt_of(bus, &self.order).await?;
        let is_halted = halt.as_ref().is_some_and(|halt| halt.command == HaltCommand::Halt);
        self.aborted = halt
            .filter(|halt| halt.command == HaltCommand::Abort)
            .map(|halt| format!("{} aborted it: {}", halt.author, halt.reason));
        let is_gated = matches!(self.fleet.inner.gates.check(&self.order).await?, Gate::Wait { .. });
        if self.state.phase == RolloutPhase::Rolling && (is_halted || is_gated) {
            // People are waited for: that does not count against the wave's deadline.
            self.since = Instant::now();
        }
        self.superseded_by = self.fleet.newer(bus, &self.order).await?;
        Ok(())
    }

    /// Who is present matters of hosts that were never heard of, and on the way back. Else thousands of signs of life would be read by every
    /// decider every few seconds for nothing.
    fn needs_presence(&self) -> bool {
        let is_silent = |host| self.view.of(host).is_none();
        matches!(self.state.phase, RolloutPhase::RollingBack { .. }) || self.order.promotion.plan.hosts().any(is_silent)
    }

    /// The host that decided the last word may have ended before it could tell: then another does, or the same after its next start.
    async fn make_heard(&mut self) {
        let Some(known) = self.known.clone().filter(|_| !self.is_told) else { return };
        loop {
            sleep(jittered(TELL_WAIT)).await;
            let now = world::now();
            let age = Duration::try_from(now.duration_since(known.written_at)).unwrap_or_default();
            if age > TELL_MAX_AGE {
                return;
            }
            match self.is_heard(&known.state).await {
                Ok(true) => return,
                Ok(false) => return self.announce(&known.state, now).await,
                Err(error) => debug!(error = causes(&error), "whether the last word was told is not known yet"),
            }
        }
    }

    /// Whether any host has told of just this.
    async fn is_heard(&self, state: &RolloutState) -> Result<bool, FleetError> {
        let Some(kind) = state.word().map(RolloutWord::outcome_kind) else { return Ok(true) };
        let bus = self.fleet.inner.bus.connected().ok_or(FleetError::Away)?;
        let roster = self.fleet.roster(&bus, &self.order).await?;
        let tells = |said: &Delivered| {
            believe_outcome(said, &roster)
                .is_ok_and(|outcome| outcome.kind == kind && outcome.rollout.as_ref() == Some(state))
        };
        let Promotion { env, app, .. } = &self.order.promotion;
        let last = bus.last_outcome(&subject::outcome(env, app, &state.decided_by, kind)).await?;
        if last.is_some_and(|said| tells(&said)) {
            return Ok(true);
        }
        let all = bus.outcomes_so_far(&subject::outcome_kind_filter(env, app, kind)).await?;
        Ok(all.iter().any(tells))
    }

    /// Tells what was decided.
    async fn announce(&mut self, before: &RolloutState, now: Timestamp) {
        let (Some(known), Some((kind, message))) = (&self.known, told(&self.order, before, &self.state)) else {
            return;
        };
        info!(app = %self.order.promotion.app, counter = self.order.promotion.counter.0, "{kind}: {message}");
        let outcome = Outcome {
            message,
            reason: self.state.cause.clone().filter(|_| kind.is_failure()),
            rollout: Some(self.state.clone()),
            ..Outcome::new(kind, &self.order.host, &self.order.promotion, self.order.id)
        };
        let inner = &self.fleet.inner;
        let announcement = match inner.announcer.decision(known.event, outcome, now) {
            Ok(announcement) => announcement,
            Err(error) => return warn!(error = causes(&error), "a decision cannot be written"),
        };
        match inner.journal.announce(&[announcement], now).await {
            Ok(()) => {
                self.is_told = self.state.word().is_some();
                inner.bell.ring();
            }
            Err(error) => warn!(error = causes(&error), "a decision was not told; the rollout's state has it"),
        }
    }
}

/// The hosts with a recent sign of life. The newest one stands for the server's own clock.
fn present(beats: &[landfall_bus::Delivered]) -> BTreeSet<HostName> {
    let Some(now) = beats.iter().map(|beat| beat.published_at).max() else { return BTreeSet::new() };
    beats
        .iter()
        .filter(|beat| {
            let age = now.duration_since(beat.published_at);
            Duration::try_from(age).is_ok_and(|age| age <= PRESENCE_MAX_AGE)
        })
        .filter_map(|beat| beat.subject.rsplit('.').next()?.parse().ok())
        .collect()
}

/// The event and its words for a change of the state; `None` for what only hosts need to know.
fn told(order: &Order, before: &RolloutState, after: &RolloutState) -> Option<(OutcomeKind, String)> {
    let plan = &order.promotion.plan;
    let release = format!("{} {}", order.promotion.app, order.promotion.release);
    let why = after.cause.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message));
    let names = |hosts: &mut dyn Iterator<Item = &HostName>| hosts.map(HostName::as_str).collect::<Vec<_>>().join(", ");
    match after.phase {
        RolloutPhase::Ended { word } => {
            let missing = if after.not_reached.is_empty() {
                String::new()
            } else {
                format!("; not reached: {}", names(&mut after.not_reached.keys()))
            };
            let differing = if after.differing.is_empty() {
                String::new()
            } else {
                let each: Vec<String> = after.differing.iter().map(|(host, what)| format!("{host}: {what}")).collect();
                format!("; {}", each.join(", "))
            };
            let kind = word.outcome_kind();
            Some((kind, format!("{release} {}{why}{missing}{differing}", kind.verb().replace('_', " "))))
        }
        RolloutPhase::RollingBack { .. } if before.phase != after.phase => {
            Some((OutcomeKind::RolloutRollingBack, format!("every host that moved to {release} goes back{why}")))
        }
        RolloutPhase::Rolling if after.wave > before.wave => {
            let wave = after.wave as usize;
            let hosts = names(&mut plan.waves.get(wave).into_iter().flat_map(|wave| &wave.hosts));
            Some((
                OutcomeKind::RolloutWaveOpened,
                format!("wave {} of {} is open: {hosts}", wave + 1, plan.waves.len()),
            ))
        }
        RolloutPhase::Rolling if after.not_reached.len() > before.not_reached.len() => {
            let skipped = names(&mut after.not_reached.keys().filter(|host| !before.not_reached.contains_key(*host)));
            Some((OutcomeKind::RolloutHostSkipped, format!("going on without {skipped}, which cannot be reached")))
        }
        RolloutPhase::Rolling | RolloutPhase::Holding | RolloutPhase::RollingBack { .. } => None,
    }
}
