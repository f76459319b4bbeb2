//! This host among the others of its plan: when it may begin, how the rollout ended, and its part in deciding that.
//!
//! In reading order: [`reading`] believes what others said, [`stored`] the rollout's state, and [`memory`] keeps both; [`Fleet::admit`] and [`Fleet::await_rollout`] are the machine's two effects that
//! wait for others; [`decider`] makes the rollout's next state; [`rank`] says which hosts decide; [`catch_up`] finds what a host has missed.

mod catch_up;
mod decider;
mod memory;
mod rank;
mod reading;
mod stored;

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use landfall_bus::{Bus, BusError};
use landfall_deploy::gates::Gate;
use landfall_deploy::rollout::{Admission, Verdict, admission, after_commit, first_state};
use landfall_deploy::{Evidence, Order};
use landfall_schema::Timestamp;
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use landfall_schema::roster::Roster;
use landfall_schema::signature::PublicKey;
use landfall_schema::subject;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::announce::Announcer;
use crate::causes;
use crate::gates::{GateError, Gates};
use crate::intake::expired;
use crate::journal::Journal;
use crate::link::BusHandle;
use crate::outbox::OutboxBell;
use crate::pace::jittered;
use crate::world::{self, within};

pub use catch_up::Missed;
use decider::Decider;
pub(crate) use memory::AsOf;
use memory::Memory;
use stored::Known;

/// Events tell when to look again; this often it is done without one, since they can be missed.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);
/// Shortest pause before it is looked again.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// After trouble with the bus.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Why the fleet cannot be judged at the moment.
#[derive(Debug, Error)]
pub enum FleetError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the bus is away")]
    Away,
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    #[error("the roster of the plan's hosts is not usable: {0}")]
    Roster(#[from] landfall_schema::roster::RosterError),
    #[error(transparent)]
    Gates(#[from] GateError),
    #[error("the rollout's state is not believed: {0}")]
    State(String),
}

/// What a host knows of the fleet, and does for it.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// What a host's part in a fleet needs.
pub struct Parts {
    pub bus: BusHandle,
    pub journal: Journal,
    pub announcer: Arc<Announcer>,
    pub bell: OutboxBell,
    /// Whose promotions and halts are believed.
    pub trusted: Vec<PublicKey>,
    pub gates: Gates,
    /// Told of promotions that this host has missed and that stand.
    pub missed: mpsc::Sender<Missed>,
    pub stop: CancellationToken,
}

struct Inner {
    parts: Parts,
    rosters: Memory<Arc<Roster>>,
    states: Memory<Known>,
    /// As of this last message on the subject of halts.
    halts: Memory<(AsOf, Option<Halt>)>,
    /// As of this last message on the subject of promotions.
    newer: Memory<(AsOf, Option<Counter>)>,
    /// The rollouts that this host has its part in.
    deciding: Mutex<HashSet<EventId>>,
    /// The applications for which it is looked what was missed, and below which promotion.
    catching_up: Mutex<BTreeMap<(EnvName, AppName), Counter>>,
}

impl Deref for Inner {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Fleet {
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            parts,
            rosters: Memory::default(),
            states: Memory::default(),
            halts: Memory::default(),
            newer: Memory::default(),
            deciding: Mutex::default(),
            catching_up: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes this host's part in deciding the rollout, until it has ended. Does nothing for a plan that is each host's own.
    pub fn decide(&self, order: &Order) {
        let plan = &order.promotion.plan;
        if !plan.is_coordinated() || plan.place_of(&order.host).is_none() {
            return;
        }
        let id = order.id;
        if !self.deciding().insert(id) {
            return;
        }
        let decider = Decider::new(self.clone(), order.clone());
        let (fleet, stop) = (self.clone(), self.inner.stop.clone());
        tokio::spawn(within(async move {
            stop.run_until_cancelled(decider.run()).await;
            fleet.deciding().remove(&id);
        }));
    }

    /// Waits until this host may begin. Cancel-safe.
    ///
    /// # Errors
    /// The rule that forbids it, or how the rollout ended without this host.
    pub async fn admit(&self, order: &Order, waiting: &mpsc::Sender<String>) -> Result<Evidence, Reason> {
        let promotion = &order.promotion;
        let hints = [
            subject::rollout_subject(&subject::rollout_key(&promotion.env, &promotion.app, promotion.counter)),
            subject::release_filter(&promotion.env, &promotion.app),
            subject::environment_filter(&promotion.env),
        ];
        let mut told = Told::new(waiting);
        // Most hosts may begin at once: nothing is listened to before it is known that there is something to wait for.
        let mut heard: Option<stream::SelectAll<_>> = None;
        loop {
            let judged = self.judge_admission(order).await;
            let now = world::now();
            if let Ok((Admission::Never(reason), _)) = judged {
                return Err(reason);
            }
            if now >= promotion.expires_at {
                return Err(expired(promotion, now));
            }
            let pause = match judged {
                Ok((Admission::Now | Admission::Never(_), _)) => return Ok(Evidence::Admitted),
                Ok((Admission::Wait(on), again_at)) => {
                    told.tell(on);
                    until(again_at, now).map_or(LOOK_INTERVAL, |pause| pause.min(LOOK_INTERVAL))
                }
                Err(error) => {
                    told.tell(format!("{}; trying again", causes(&error)));
                    RETRY_INTERVAL
                }
            };
            match &mut heard {
                Some(listening) => {
                    let has_ended = tokio::select! {
                        biased;
                        tick = listening.next() => tick.is_none(),
                        () = sleep(jittered(pause)) => false,
                    };
                    if has_ended {
                        heard = None;
                    }
                }
                None => match self.listen(&hints).await {
                    // Whatever happened before it listened is seen by looking once more.
                    Ok(listening) => heard = Some(listening),
                    Err(error) => {
                        debug!(error = causes(&error), "the fleet cannot be listened to yet");
                        sleep(jittered(RETRY_INTERVAL)).await;
                    }
                },
            }
        }
    }

    /// Waits for the rollout's end. Cancel-safe.
    ///
    /// # Errors
    /// Why this host has to go back.
    pub async fn await_rollout(&self, order: &Order, waiting: &mpsc::Sender<String>) -> Result<Evidence, Reason> {
        let promotion = &order.promotion;
        let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
        let mut told = Told::new(waiting);
        loop {
            let heard = match self.listen(&[subject::rollout_subject(&key)]).await {
                Ok(heard) => heard,
                Err(error) => {
                    debug!(error = causes(&error), "the rollout cannot be listened to yet");
                    sleep(jittered(RETRY_INTERVAL)).await;
                    continue;
                }
            };
            let mut heard = pin!(heard);
            loop {
                let pause = match self.judge_end(order).await {
                    Ok(Verdict::Keep(word)) => return Ok(Evidence::RolloutEnded { word }),
                    Ok(Verdict::GoBack(reason)) => return Err(reason),
                    Ok(Verdict::Wait) => LOOK_INTERVAL,
                    Err(error) => {
                        told.tell(format!("{}; trying again", causes(&error)));
                        RETRY_INTERVAL
                    }
                };
                tokio::select! {
                    biased;
                    tick = heard.next() => if tick.is_none() { break },
                    () = sleep(jittered(pause)) => {}
                }
            }
        }
    }

    /// What the fleet and the environment's rules say, and when it is worth asking again at the latest.
    async fn judge_admission(&self, order: &Order) -> Result<(Admission, Option<Timestamp>), FleetError> {
        let here = self.admitted_by_the_fleet(order).await?;
        if here != Admission::Now {
            return Ok((here, None));
        }
        Ok(match self.inner.gates.check(order).await? {
            Gate::Pass => (Admission::Now, None),
            Gate::Wait { on, until, .. } => (Admission::Wait(on), Some(until)),
            Gate::Refuse(reason) => (Admission::Never(reason), None),
        })
    }

    async fn admitted_by_the_fleet(&self, order: &Order) -> Result<Admission, FleetError> {
        let Some(bus) = self.inner.bus.connected() else {
            // Who deploys alone asks nobody, and can do so while the bus is away.
            return if order.promotion.plan.is_coordinated() { Err(FleetError::Away) } else { Ok(Admission::Now) };
        };
        let halted = self.halt_of(&bus, order).await?;
        match halted {
            Some(halt) if halt.command == HaltCommand::Abort => {
                let Promotion { app, env, .. } = &order.promotion;
                let text = format!("{} aborted it: {}", halt.author, halt.reason);
                let hint = format!("promote again, or see `landfall status {app} --env {env}`");
                return Ok(Admission::Never(Reason::new(ReasonCode::Aborted, text).hint(hint)));
            }
            Some(halt) if halt.command == HaltCommand::Halt => {
                return Ok(Admission::Wait(format!("{} halted it: {}", halt.author, halt.reason)));
            }
            _ => {}
        }
        if !order.promotion.plan.is_coordinated() {
            return Ok(Admission::Now);
        }
        let roster = self.roster(&bus, order).await?;
        let state = self.state(&bus, order, &roster).await?.map_or_else(|| first_state(order), |(state, _)| state);
        match admission(order, &state) {
            Admission::Now => self.proven(&bus, order, &state, &roster).await,
            other => Ok(other),
        }
    }

    async fn judge_end(&self, order: &Order) -> Result<Verdict, FleetError> {
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let roster = self.roster(&bus, order).await?;
        let state = self.state(&bus, order, &roster).await?;
        Ok(state.map_or(Verdict::Wait, |(state, _)| after_commit(order, &state)))
    }

    async fn listen(
        &self,
        subjects: &[String],
    ) -> Result<stream::SelectAll<impl stream::Stream<Item = ()> + Send + Unpin + use<>>, FleetError> {
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let mut heard = stream::SelectAll::new();
        for subject in subjects {
            heard.push(bus.hear(subject.clone()).await?);
        }
        Ok(heard)
    }

    /// The keys of the plan's hosts, by the digest that the promotion's signature covers.
    async fn roster(&self, bus: &Bus, order: &Order) -> Result<Arc<Roster>, FleetError> {
        if let Some(roster) = self.inner.rosters.of(order.id) {
            return Ok(roster);
        }
        let Some(reference) = &order.promotion.plan.roster else {
            return Ok(Arc::new(Roster::new(Default::default())));
        };
        let roster = Arc::new(Roster::decode(&bus.get_bundle(reference).await?, reference)?);
        self.inner.rosters.keep(order.id, Arc::clone(&roster));
        Ok(roster)
    }

    fn deciding(&self) -> MutexGuard<'_, HashSet<EventId>> {
        self.inner.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long until then; `None` for no time.
fn until(at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    // A moment after it rather than before, and never without any pause.
    at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + PAUSE_MIN)
}

/// Tells what is waited for, each time that it changes.
struct Told<'w> {
    waiting: &'w mpsc::Sender<String>,
    last: Option<String>,
}

impl<'w> Told<'w> {
    fn new(waiting: &'w mpsc::Sender<String>) -> Self {
        Self { waiting, last: None }
    }

    fn tell(&mut self, on: String) {
        if self.last.as_ref() == Some(&on) {
            return;
        }
        // A reader that is behind learns the next one; this is narration.
        if self.waiting.try_send(on.clone()).is_err() {
            warn!(on, "what is waited for was not told");
        }
        self.last = Some(on);
    }
}
