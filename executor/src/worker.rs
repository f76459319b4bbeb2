//! Runs the deploys of one application, one at a time: asks the machine, writes down, lets the hands act, tells the machine.

mod deploy;
mod drift;
mod preview;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use landfall_deploy::{Effect, Evidence, Input, Order};
use landfall_schema::Timestamp;
use landfall_schema::bundle::Bundle;
use landfall_schema::ids::{AppName, Counter, EnvName};
use landfall_schema::outcome::{OutcomeKind, Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::Promotion;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::announce::Announcer;
use crate::causes;
use crate::config::DriftPolicy;
use crate::fleet::Fleet;
use crate::gates::Gates;
use crate::hands::{Committed, Context, Drift, Hands};
use crate::intake::{Taken, expired};
use crate::journal::{Journal, JournalError};
use crate::outbox::OutboxBell;
use crate::pace::{Backoff, Throttle};
use crate::world;

use deploy::Deploy;
use drift::Watch;
use preview::Expiry;

/// Between two attempts to write the journal, at least and at most.
const JOURNAL_RETRY_MIN: Duration = Duration::from_millis(200);
const JOURNAL_RETRY_MAX: Duration = Duration::from_secs(5);

/// The hands, or what stands for them in tests.
pub trait CarryOut: Send + Sync + 'static {
    fn carry_out(
        &self,
        effect: Effect,
        order: &Order,
        context: &Context,
    ) -> impl Future<Output = Result<Evidence, Reason>> + Send;

    fn bundle(&self, order: &Order, context: &Context) -> impl Future<Output = Result<Bundle, Reason>> + Send;

    /// Told that the host went back, and why, before that is written down.
    fn taken_back(&self, order: &Order, cause: &Reason) -> impl Future<Output = ()> + Send;

    /// Told that a deploy ended and that this host serves what it served before: the fleet may run something newer.
    fn look_for_missed(&self, _order: &Order) {}

    /// Ticks when the engine tells of the stack's containers. `None`: nobody looks whether they are what was committed.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// What of the stack is not as it was committed.
    fn drifted(&self, _committed: &Committed) -> impl Future<Output = Result<Vec<Drift>, Reason>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Brings these services back to what was committed, and proves it.
    fn put_back(
        &self,
        _committed: &Committed,
        _drifts: &[Drift],
        _deadline: Instant,
    ) -> impl Future<Output = Result<Evidence, Reason>> + Send {
        async { Err(Reason::new(ReasonCode::Internal, "nobody puts anything back here")) }
    }
}

/// The hands for what is done on this host, the fleet for what is waited for elsewhere, and the gates for what others should not try again.
pub struct Crew {
    pub hands: Hands,
    pub fleet: Fleet,
    pub gates: Gates,
}

impl CarryOut for Crew {
    async fn carry_out(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        match effect {
            Effect::Admit => self.fleet.admit(order, &context.waiting).await,
            Effect::AwaitRollout => self.fleet.await_rollout(order, &context.waiting).await,
            _ => self.hands.carry_out(effect, order, context).await,
        }
    }

    async fn bundle(&self, order: &Order, context: &Context) -> Result<Bundle, Reason> {
        self.hands.bundle(order, context).await
    }

    async fn taken_back(&self, order: &Order, cause: &Reason) {
        self.gates.condemn(order, cause).await;
    }

    fn look_for_missed(&self, order: &Order) {
        let Promotion { env, app, counter, .. } = &order.promotion;
        self.fleet.catch_up(env, app, *counter);
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.hands.changes())
    }

    async fn drifted(&self, committed: &Committed) -> Result<Vec<Drift>, Reason> {
        self.hands.drifted(committed).await
    }

    async fn put_back(&self, committed: &Committed, drifts: &[Drift], deadline: Instant) -> Result<Evidence, Reason> {
        self.hands.put_back(committed, drifts, deadline).await
    }
}

/// A promotion for the worker.
#[derive(Debug)]
pub struct Job {
    pub taken: Taken,
    /// The machine's inputs before a restart; empty when it has not begun.
    pub entries: Vec<(Timestamp, Input)>,
    /// Of the deploy span before a restart.
    pub deploy_traceparent: Option<String>,
}

impl Job {
    pub fn new(taken: Taken) -> Self {
        Self { taken, entries: Vec::new(), deploy_traceparent: None }
    }

    fn counter(&self) -> Counter {
        self.taken.order.promotion.counter
    }

    fn has_begun(&self) -> bool {
        !self.entries.is_empty()
    }
}

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub env: EnvName,
    pub journal: Journal,
    pub announcer: Arc<Announcer>,
    pub bell: OutboxBell,
    /// Poked when what runs on this host changed.
    pub changed: Arc<Notify>,
    pub keep_releases: usize,
    /// Nothing new is begun; the effect in hand is finished.
    pub draining: CancellationToken,
    /// The effect in hand is dropped; the journal takes it up again at the next start.
    pub parking: CancellationToken,
}

pub struct Worker<H> {
    pub app: AppName,
    pub hands: Arc<H>,
    pub inbox: mpsc::UnboundedReceiver<Job>,
    pub shared: Shared,
    waiting: Vec<Job>,
    watch: Watch,
    expiry: Expiry,
    is_of_preview: bool,
}

/// Why a worker has ended.
#[derive(Debug)]
pub enum Ended {
    /// The daemon drains.
    Drained,
    /// Its preview is gone. `late` came while it ended, and nothing of it was begun.
    PreviewGone { late: Vec<Job> },
}

/// What a worker does next.
enum Next {
    Deploy(Job),
    /// The preview's time is over.
    Remove(Order),
    /// Something happened to the stack's containers.
    Look,
}

impl<H: CarryOut> Worker<H> {
    pub fn new(app: AppName, hands: Arc<H>, inbox: mpsc::UnboundedReceiver<Job>, shared: Shared) -> Self {
        let watch = Watch::new(hands.changes());
        Self { app, hands, inbox, shared, waiting: Vec::new(), watch, expiry: Expiry::default(), is_of_preview: false }
    }

    /// Ends with the preview.
    #[must_use]
    pub fn of_preview(mut self) -> Self {
        self.is_of_preview = true;
        self
    }

    #[must_use]
    pub fn on_drift(mut self, policy: DriftPolicy) -> Self {
        self.watch.policy = policy;
        self
    }

    /// Until the daemon drains, or the preview is gone.
    pub async fn run(mut self) -> Ended {
        self.read_expiry().await;
        while let Some(next) = self.next().await {
            match next {
                Next::Deploy(job) => {
                    let order = job.taken.order.clone();
                    if self.carry_out(job).await.is_some_and(leaves_the_former) {
                        self.hands.look_for_missed(&order);
                    }
                    self.watch.begin_anew();
                    self.read_expiry().await;
                }
                Next::Remove(order) => self.remove_expired(&order).await,
                Next::Look => {
                    self.look().await;
                    continue;
                }
            }
            self.shared.changed.notify_one();
            if let Err(error) = self.shared.journal.prune(self.shared.keep_releases + 1, world::now()).await {
                error!(app = %self.app, error = causes(&error), "the journal was not cleaned up");
            }
            if self.is_of_preview && self.waiting.is_empty() && self.expiry.is_empty() {
                // What comes from now on is sent back to the daemon; what came just before is handed back.
                self.inbox.close();
                return Ended::PreviewGone { late: std::iter::from_fn(|| self.inbox.try_recv().ok()).collect() };
            }
        }
        Ended::Drained
    }

    /// What was begun before a restart comes first; else the newest, and those before it are superseded.
    async fn next(&mut self) -> Option<Next> {
        loop {
            while let Ok(job) = self.inbox.try_recv() {
                self.waiting.push(job);
            }
            if self.shared.draining.is_cancelled() {
                return None;
            }
            self.waiting.sort_by_key(Job::counter);
            if let Some(begun) = self.waiting.iter().position(Job::has_begun) {
                return Some(Next::Deploy(self.waiting.remove(begun)));
            }
            if let Some(newest) = self.waiting.pop() {
                for older in std::mem::take(&mut self.waiting) {
                    let text = format!("promotion {} came before this one was begun", newest.counter());
                    self.end(&older, OutcomeKind::DeploySuperseded, Reason::new(ReasonCode::Superseded, text)).await;
                }
                return Some(Next::Deploy(newest));
            }
            tokio::select! {
                biased;
                job = self.inbox.recv() => self.waiting.push(job?),
                order = self.expiry.reached() => return Some(Next::Remove(order)),
                () = self.watch.due() => return Some(Next::Look),
                () = self.shared.draining.cancelled() => return None,
            }
        }
    }

    /// How it ended; `None` when the daemon ended before.
    async fn carry_out(&mut self, job: Job) -> Option<OutcomeKind> {
        let promotion = &job.taken.order.promotion;
        let now = world::now();
        if !job.has_begun() && now >= promotion.expires_at {
            return self.end(&job, OutcomeKind::DeployRefused, expired(promotion, now)).await;
        }
        if !job.has_begun()
            && let Some(reason) = preview::is_over(promotion, now)
        {
            return self.end(&job, OutcomeKind::DeployRefused, reason).await;
        }
        if !job.has_begun()
            && let Some(reason) = self.comes_too_late(promotion).await?
        {
            return self.end(&job, OutcomeKind::DeploySuperseded, reason).await;
        }
        if job.has_begun() {
            info!(app = %self.app, release = %promotion.release, counter = promotion.counter.0, "going on after a restart");
        }
        Deploy::run(self, job).await
    }

    /// Who catches up takes promotions that are older than others which it took: read at this moment, what is committed is never left for
    /// an older release without a signed rollback. `None` when the daemon ended before the journal could be read.
    async fn comes_too_late(&self, promotion: &Promotion) -> Option<Option<Reason>> {
        let Promotion { env, app, counter, .. } = promotion;
        let runs = self.shared.persist(|journal| journal.committed(env, app, 1)).await?.pop();
        let runs = runs.filter(|_| !planted("ignore_the_counter"));
        Some(runs.filter(|runs| runs.counter >= *counter).map(|runs| {
            let text = format!("promotion {} ({}) is committed on this host already", runs.counter, runs.release);
            Reason::new(ReasonCode::Superseded, text)
        }))
    }

    /// Ends a promotion without its machine. `None` when that could not be written down.
    async fn end(&self, job: &Job, kind: OutcomeKind, reason: Reason) -> Option<OutcomeKind> {
        let now = world::now();
        let order = &job.taken.order;
        let traceparent = job.deploy_traceparent.as_deref().or(job.taken.traceparent.as_deref());
        info!(app = %self.app, release = %order.promotion.release, counter = order.promotion.counter.0, outcome = %kind, "{}", reason.message);
        let mut announcement = match self.shared.announcer.ended(order, kind, reason, now, traceparent) {
            Ok(announcement) => announcement,
            Err(error) => {
                error!(app = %self.app, error = causes(&error), "an outcome cannot be written");
                return None;
            }
        };
        announcement.settles = Some(job.taken.message.clone());
        let announcements = [announcement];
        self.shared.persist(|journal| journal.end(order, kind, &announcements, now)).await.map(|()| kind)
    }
}

/// Whether a host that ended so serves what it served before.
fn leaves_the_former(kind: OutcomeKind) -> bool {
    matches!(kind, OutcomeKind::DeployFailed | OutcomeKind::DeployRolledBack | OutcomeKind::DeployRefused)
}

impl Shared {
    /// Asks the journal, again and again while the disk does not let it: nothing is done that is not written down. `None` when the daemon
    /// ended before.
    async fn persist<'j, F, W, T>(&'j self, ask: F) -> Option<T>
    where
        F: Fn(&'j Journal) -> W,
        W: Future<Output = Result<T, JournalError>>,
    {
        let mut backoff = Backoff::new(JOURNAL_RETRY_MIN, JOURNAL_RETRY_MAX);
        let mut trouble = Throttle::default();
        loop {
            match ask(&self.journal).await {
                Ok(answer) => {
                    self.bell.ring();
                    return Some(answer);
                }
                Err(error) => {
                    if let Some(untold) = trouble.tell() {
                        error!(
                            error = causes(&error),
                            untold, "the journal does not answer, and nothing goes on without it (is the disk full?)"
                        );
                    }
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.parking.cancelled() => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
