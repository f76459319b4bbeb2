//! One deploy: the machine between the journal and the hands.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use landfall_deploy::{Effect, Evidence, IllegalInput, Input, Machine, Order};
use landfall_schema::Timestamp;
use landfall_schema::bundle::Bundle;
use landfall_schema::ids::Counter;
use landfall_schema::outcome::{Outcome, OutcomeKind, Progress, Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_telemetry::{link_current_span, set_attribute, traceparent_of_current_span};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, Span, error, info, info_span, warn};

use super::{CarryOut, Job, Shared, Worker};
use crate::announce::Announcement;
use crate::causes;
use crate::failpoint::failpoint;
use crate::hands::{Committed, Context};
use crate::intake::MessageId;
use crate::journal::Step;
use crate::world;

/// The hands keep the deadline themselves, since they can tell more; after this time beyond it they are stopped.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
/// For the bundle of a release that is to be committed; longer than the bus is asked for it.
const BUNDLE_LIMIT: Duration = Duration::from_secs(60);
/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(400);
/// Progress that waits to be told; more is dropped by the hands.
const PROGRESS_QUEUE: usize = 16;

pub(super) struct Deploy<'w, H> {
    worker: &'w mut Worker<H>,
    machine: Machine,
    message: MessageId,
    traceparent: Option<String>,
    bundle: Option<Bundle>,
    /// The newest promotion that the machine was told of.
    superseded_by: Option<Counter>,
    /// Why the host went back, until that is told.
    taken_back: Option<Reason>,
}

/// How carrying out an effect ended.
enum Carried {
    Answered(Result<Evidence, Reason>),
    /// A newer promotion ended the deploy meanwhile.
    Overtaken,
    Parked,
}

impl<'w, H: CarryOut> Deploy<'w, H> {
    /// Until the deploy ends, or is parked; with how it ended.
    pub(super) async fn run(worker: &'w mut Worker<H>, job: Job) -> Option<OutcomeKind> {
        let span = deploy_span(&job.taken.order);
        span.in_scope(|| job.taken.traceparent.as_deref().map(link_current_span));
        Self::run_in(worker, job, span.clone()).instrument(span).await
    }

    async fn run_in(worker: &'w mut Worker<H>, job: Job, span: Span) -> Option<OutcomeKind> {
        let order = job.taken.order.clone();
        let input = if job.has_begun() { Input::Resumed } else { Input::Begin };
        let machine = match Machine::replay(order.clone(), job.entries.iter().cloned()) {
            Ok(machine) => machine,
            Err(illegal) => return worker.end(&job, OutcomeKind::DeployStuck, unreadable(&illegal)).await,
        };
        let shared = worker.shared.clone();
        // Where nothing is traced, the promotion's own context is passed on.
        let traceparent = job
            .deploy_traceparent
            .clone()
            .or_else(traceparent_of_current_span)
            .or_else(|| job.taken.traceparent.clone());
        if let (None, Some(made)) = (&job.deploy_traceparent, &traceparent)
            && let Err(error) = shared.journal.set_deploy_traceparent(&order, made).await
        {
            warn!(error = causes(&error), "the deploy's trace was not remembered");
        }
        let message = job.taken.message.clone();
        let mut deploy =
            Self { worker, machine, message, traceparent, bundle: None, superseded_by: None, taken_back: None };
        if let Err(illegal) = deploy.go(input).await {
            error!(error = %illegal, "a defect: the machine was given what it cannot take");
            return deploy.worker.end(&job, OutcomeKind::DeployStuck, unreadable(&illegal)).await;
        }
        let ended = deploy.machine.terminal();
        if let Some(kind) = ended {
            set_attribute(&span, "cicd.pipeline.result", result_attribute(kind));
        }
        ended
    }

    async fn go(&mut self, first: Input) -> Result<(), IllegalInput> {
        let resumed = first == Input::Resumed;
        if !self.step(first).await? {
            return Ok(());
        }
        while self.machine.terminal().is_none() && !self.shared().draining.is_cancelled() {
            self.hear_of_newer().await?;
            let Some(effect) = self.machine.next_effect() else { return Ok(()) };
            if resumed && effect == Effect::Migrate && planted("skip_the_effect_on_resume") {
                let evidence = Evidence::Migrated { applied: Vec::new(), notes: Vec::new() };
                self.step(Input::Finished { effect, evidence }).await?;
                continue;
            }
            let input = match self.carry_out(effect).await? {
                Carried::Answered(Ok(evidence)) => Input::Finished { effect, evidence },
                Carried::Answered(Err(reason)) => Input::Failed { effect, reason },
                Carried::Overtaken => continue,
                Carried::Parked => return Ok(()),
            };
            if !self.step(input).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn shared(&self) -> &Shared {
        &self.worker.shared
    }

    fn order(&self) -> &Order {
        self.machine.order()
    }

    /// Gives the machine an input, and writes both it and what follows from it. `false` when it could not be written before the daemon ended.
    async fn step(&mut self, input: Input) -> Result<bool, IllegalInput> {
        let at = world::now();
        self.machine.handle(input.clone(), at)?;
        let announcements = self.announcements(at);
        if let Some(cause) = self.taken_back.take() {
            failpoint!("condemn.before");
            self.worker.hands.taken_back(self.order(), &cause).await;
            failpoint!("condemn.after");
        }
        let terminal = self.machine.terminal().filter(|_| !planted("state_not_done"));
        let order = self.order();
        let (with, apart) = announcements.split_at(if planted("outcome_apart") { 0 } else { announcements.len() });
        let step = || Step { order, at, input: &input, announcements: with, terminal };
        let is_written = self.shared().persist(|journal| journal.record(step())).await.is_some();
        if !apart.is_empty() {
            self.shared().persist(|journal| journal.announce(apart, at)).await;
        }
        Ok(is_written)
    }

    fn announcements(&mut self, now: Timestamp) -> Vec<Announcement> {
        let mut made = Vec::new();
        while let Some(outcome) = self.machine.next_outcome() {
            tell(&outcome);
            if outcome.kind == OutcomeKind::DeployRolledBack {
                self.taken_back.clone_from(&outcome.reason);
            }
            let settles = outcome.kind.is_terminal().then(|| self.message.clone());
            match self.shared().announcer.outcome(outcome, now, self.traceparent.as_deref()) {
                Ok(announcement) => made.push(Announcement { settles, ..announcement }),
                Err(error) => error!(error = causes(&error), "an outcome cannot be written"),
            }
        }
        made
    }

    /// Tells the machine of the newest promotion that waits.
    async fn hear_of_newer(&mut self) -> Result<(), IllegalInput> {
        while let Ok(job) = self.worker.inbox.try_recv() {
            self.worker.waiting.push(job);
        }
        let newest = self.worker.waiting.iter().map(Job::counter).max();
        let Some(by) = newest.filter(|by| *by > self.order().promotion.counter && self.superseded_by < Some(*by))
        else {
            return Ok(());
        };
        self.superseded_by = Some(by);
        self.step(Input::Superseded { by }).await.map(|_| ())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<Carried, IllegalInput> {
        if effect == Effect::Commit
            && let Some(ended) = self.write_committed().await
        {
            return Ok(ended);
        }
        let limit = self.machine.limit().unwrap_or_default();
        let deadline = Instant::now() + limit;
        let (progress, mut progressed) = mpsc::channel(PROGRESS_QUEUE);
        let (waiting, mut waits) = mpsc::channel(PROGRESS_QUEUE);
        let Some(context) = self.context(progress, waiting, deadline).await else { return Ok(Carried::Parked) };
        let span = info_span!("step", otel.name = effect.noun());
        set_attribute(&span, "cicd.pipeline.task.name", effect.noun());
        let work = act(Arc::clone(&self.worker.hands), effect, self.order().clone(), context);
        let mut work = std::pin::pin!(work.instrument(span.clone()));
        let mut told_at: Option<Instant> = None;
        let watches = effect == Effect::AwaitRollout;
        if watches {
            self.worker.watch.after_commit();
        }
        let Shared { draining, parking, .. } = self.shared().clone();
        // Nothing is half done while it is only waited for the others: that can be dropped at once.
        let stop = if effect.is_waiting() { draining } else { parking };
        loop {
            tokio::select! {
                biased;
                (result, bundle) = &mut work => {
                    self.bundle = self.bundle.take().or(bundle);
                    set_attribute(&span, "cicd.pipeline.task.run.result", if result.is_ok() { "success" } else { "failure" });
                    return Ok(Carried::Answered(result));
                }
                Some(progress) = progressed.recv() => {
                    if progress.layers_total > 0 && told_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL) {
                        told_at = Some(Instant::now());
                        self.tell_beside(Input::Progressed { progress }).await?;
                    }
                }
                Some(on) = waits.recv() => self.tell_beside(Input::Waiting { on }).await?,
                Some(job) = self.worker.inbox.recv() => {
                    self.worker.waiting.push(job);
                    self.hear_of_newer().await?;
                    if self.machine.terminal().is_some() {
                        return Ok(Carried::Overtaken);
                    }
                }
                // The rollout's word counts on this host to serve what it has committed. Nothing is put back: whether the release stays is
                // not known yet.
                () = self.worker.watch.due(), if watches => {
                    tokio::select! {
                        biased;
                        _told = self.worker.tell_drift() => {}
                        () = stop.cancelled() => return Ok(Carried::Parked),
                    }
                }
                () = wall_clock_passes(self.machine.deadline()), if planted("wall_clock_deadline") => {
                    return Ok(Carried::Answered(Err(Reason::new(ReasonCode::DeadlineExceeded, "the wall clock says so"))));
                }
                () = sleep_until(deadline + DEADLINE_SLACK) => {
                    let text = format!("the {} step took longer than {} s", effect.noun(), limit.as_secs());
                    return Ok(Carried::Answered(Err(Reason::new(ReasonCode::DeadlineExceeded, text))));
                }
                () = stop.cancelled() => {
                    info!(step = effect.noun(), "parked; the next start goes on with this step");
                    return Ok(Carried::Parked);
                }
            }
        }
    }

    /// What this host goes back to is written down before old images go, and before the machine may hear of success. It is not under the
    /// step's deadline, which forgives what could not be cleaned up. `Some` when it could not be done.
    async fn write_committed(&self) -> Option<Carried> {
        let (progress, _) = mpsc::channel(1);
        let (waiting, _) = mpsc::channel(1);
        let context = Context {
            waiting,
            bundle: self.bundle.clone(),
            former: None,
            progress,
            deadline: Instant::now() + BUNDLE_LIMIT,
            last_good: Vec::new(),
        };
        let hands = Arc::clone(&self.worker.hands);
        let bundle = tokio::select! {
            biased;
            bundle = timeout(BUNDLE_LIMIT, hands.bundle(self.order(), &context)) => bundle,
            () = self.shared().parking.cancelled() => return Some(Carried::Parked),
        };
        let bundle = match bundle {
            Ok(Ok(bundle)) => bundle,
            Ok(Err(reason)) => return Some(Carried::Answered(Err(not_kept(reason)))),
            Err(_) => {
                let text = format!("the bundle could not be had within {} s", BUNDLE_LIMIT.as_secs());
                return Some(Carried::Answered(Err(Reason::new(ReasonCode::BundleMissing, text))));
            }
        };
        let now = world::now();
        if planted("commit_unwritten") {
            return None;
        }
        match self.shared().persist(|journal| journal.commit(self.order(), &bundle, now)).await {
            Some(()) => None,
            None => Some(Carried::Parked),
        }
    }

    /// Progress, and what is waited for: told when the bus takes it, and not kept otherwise.
    async fn tell_beside(&mut self, input: Input) -> Result<(), IllegalInput> {
        let now = world::now();
        self.machine.handle(input, now)?;
        let announcements = self.announcements(now);
        if self.shared().bell.is_stalled() {
            return Ok(());
        }
        match self.shared().journal.announce(&announcements, now).await {
            Ok(()) => self.shared().bell.ring(),
            Err(error) => warn!(error = causes(&error), "progress was not told"),
        }
        Ok(())
    }

    /// `None` when the daemon ended before the journal could be read.
    async fn context(
        &self,
        progress: mpsc::Sender<Progress>,
        waiting: mpsc::Sender<String>,
        deadline: Instant,
    ) -> Option<Context> {
        let last_good = last_good(self.shared(), self.order()).await?;
        let former = former(&last_good, self.order()).cloned();
        Some(Context { bundle: self.bundle.clone(), former, progress, waiting, deadline, last_good })
    }
}

/// One effect, with what belongs to it in the journal.
async fn act<H: CarryOut>(
    hands: Arc<H>,
    effect: Effect,
    order: Order,
    context: Context,
) -> (Result<Evidence, Reason>, Option<Bundle>) {
    failpoint!("effect.{effect:?}.before");
    // A defect in one step is that step's failure: the deploy goes back, and other deploys go on.
    let result =
        AssertUnwindSafe(hands.carry_out(effect, &order, &context)).catch_unwind().await.unwrap_or_else(|_| {
            let text = format!("a defect of the executor ended the {} step; its log tells more", effect.noun());
            Err(Reason::new(ReasonCode::Internal, text).hint("please report it with the executor's log"))
        });
    failpoint!("effect.{effect:?}.after");
    let bundle = match (effect, &result) {
        (Effect::Observe, Ok(_)) => hands.bundle(&order, &context).await.ok(),
        _ => None,
    };
    (result, bundle)
}

/// The committed releases, newest first; `None` when the daemon ended before the journal could be read.
async fn last_good(shared: &Shared, order: &Order) -> Option<Vec<Committed>> {
    let promotion = &order.promotion;
    shared.persist(|journal| journal.committed(&promotion.env, &promotion.app, shared.keep_releases + 1)).await
}

/// What serves before this order: the newest committed release of a lower number.
fn former<'c>(last_good: &'c [Committed], order: &Order) -> Option<&'c Committed> {
    last_good.iter().find(|committed| committed.counter < order.promotion.counter)
}

/// Whatever kept the bundle away: the machine turns back for want of it, and does not take it for trouble of the clean-up.
fn not_kept(reason: Reason) -> Reason {
    match reason.code {
        ReasonCode::BundleMissing | ReasonCode::BundleDigest => reason,
        _ => Reason { code: ReasonCode::BundleMissing, ..reason },
    }
}

fn unreadable(illegal: &IllegalInput) -> Reason {
    Reason::new(ReasonCode::Internal, format!("the journal of this deploy cannot be followed: {illegal}"))
        .hint("look at the stack on this host, then promote again")
}

/// Named after OpenTelemetry's conventions for CI/CD and deployments; the log shows the application alone.
fn deploy_span(order: &Order) -> Span {
    let promotion = &order.promotion;
    let span = info_span!("deploy", app = %promotion.app);
    for (key, value) in [
        ("cicd.pipeline.name", format!("deploy {}", promotion.app)),
        ("cicd.pipeline.run.id", order.id.to_string()),
        ("cicd.worker.name", order.host.to_string()),
        ("deployment.environment.name", promotion.env.to_string()),
        ("deployment.id", format!("{}/{}/{}", promotion.env, promotion.app, promotion.counter.0)),
        ("deployment.name", promotion.release.to_string()),
        ("messaging.system", "nats".to_owned()),
        ("messaging.destination.template", "landfall.{env}.release.{app}.promoted".to_owned()),
    ] {
        set_attribute(&span, key, value);
    }
    span
}

fn result_attribute(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::DeploySucceeded => "success",
        OutcomeKind::DeploySuperseded => "cancellation",
        OutcomeKind::DeployStuck => "error",
        _ => "failure",
    }
}

/// Says it in the log as well.
fn tell(outcome: &Outcome) {
    let Outcome { app, release, counter, kind, message, duration_ms, .. } = outcome;
    let took = duration_ms.map(|ms| format!(" ({:.1} s)", ms as f64 / 1e3)).unwrap_or_default();
    if kind.is_failure() {
        warn!("{app} {release} {counter}: {kind}{took}: {message}");
    } else {
        info!("{app} {release} {counter}: {kind}{took}: {message}");
    }
}

/// As a deadline would be kept by a clock that can be set; never is.
async fn wall_clock_passes(deadline: Option<Timestamp>) {
    while deadline.is_none_or(|deadline| world::now() < deadline) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
