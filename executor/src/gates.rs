//! The rules of this host's environment: read from the bus, believed by signature, judged by `landfall_deploy::gates`; and the releases that
//! this host condemns.

mod newest;
mod worked;

use std::sync::Arc;
use std::time::Duration;

use landfall_bus::{Bus, BusError};
use landfall_deploy::Order;
use landfall_deploy::gates::documents::{self, Published};
use landfall_deploy::gates::{Facts, Gate, Lost, Said, judge};
use landfall_schema::gates::{
    Absolution, Approval, Condemned, CondemnedList, EnvironmentPolicy, Freeze, NOTE_MAX_CHARS, blames_the_release,
    fingerprint,
};
use landfall_schema::ids::{Digest, EnvName};
use landfall_schema::layout::{ROLLOUT, SWEEP_INTERVAL};
use landfall_schema::outcome::Reason;
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::{PublicKey, SignatureError, signers};
use landfall_schema::subject;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::announce::{AnnounceError, Announcer};
use crate::causes;
use crate::config::TrustConfig;
use crate::journal::{Journal, JournalError};
use crate::link::BusHandle;
use crate::pace::{Backoff, jittered};
use crate::world::{self, within};

use newest::Newest;

/// How long a deploy that was taken back waits for its release to be condemned; it is tried on without it.
const CONDEMN_WAIT: Duration = Duration::from_secs(5);
/// Between two attempts to condemn a release, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Committed releases that a rollback is looked for among; more than are ever kept.
const COMMITTED_MAX: usize = 200;

/// Why the rules cannot be asked at the moment; trying again may help.
#[derive(Debug, Error)]
pub enum GateError {
    #[error("the bus is away, so the rules of the environment cannot be asked")]
    Away,
    #[error("the rules of the environment cannot be read")]
    Bus(#[from] BusError),
    #[error("the rules of the environment cannot be compared with this host's journal")]
    Journal(#[from] JournalError),
    #[error("the journal does not hold the promotion that is to be judged")]
    Unknown,
    #[error("the promotion's own signature cannot be read")]
    Signature(#[from] SignatureError),
    #[error("the list of condemned releases cannot be written")]
    Announce(#[from] AnnounceError),
}

/// The environment's rules as this host knows them.
#[derive(Debug, Clone)]
pub struct Gates {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: EnvName,
    /// Whose promotions and absolutions are believed.
    promote: Vec<PublicKey>,
    /// Whose policies, freezes and absolutions are believed. Without any, no policy is asked for.
    admin: Vec<PublicKey>,
    bus: BusHandle,
    journal: Journal,
    announcer: Arc<Announcer>,
    policies: Newest,
    freezes: Newest,
    stop: CancellationToken,
}

/// What the environment demands of a promotion.
#[derive(Debug, Default)]
struct Rules {
    policy: Option<EnvironmentPolicy>,
    freezes: Vec<Freeze>,
    lost: Lost,
}

impl Rules {
    fn is_never_frozen(&self) -> bool {
        self.freezes.is_empty() && self.policy.as_ref().is_none_or(|policy| policy.freeze_windows.is_empty())
    }
}

impl Gates {
    pub fn new(
        env: EnvName,
        trust: &TrustConfig,
        bus: BusHandle,
        journal: Journal,
        announcer: Arc<Announcer>,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner {
            env,
            promote: trust.promote.clone(),
            admin: trust.admin.clone(),
            bus,
            journal,
            announcer,
            policies: Newest::default(),
            freezes: Newest::default(),
            stop,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the rules say now. Ask again whenever something is said under the environment's or the application's release subjects, and at
    /// the time that [`Gate::Wait`] names.
    ///
    /// # Errors
    /// [`GateError`] when they cannot be asked; then nothing is begun.
    pub async fn check(&self, order: &Order) -> Result<Gate, GateError> {
        let inner = &self.inner;
        let promotion = &order.promotion;
        let Some(bus) = inner.bus.connected() else {
            // Who deploys alone and has no rules asks nobody, and can do so while the bus is away.
            let alone = inner.admin.is_empty() && !promotion.plan.is_coordinated();
            return if alone { Ok(Gate::Pass) } else { Err(GateError::Away) };
        };
        let condemned = inner.condemned(&bus, promotion).await?.map(|(list, _)| list);
        let absolved = match &condemned {
            Some(list) if list.forbids(&fingerprint(promotion), &[]).is_some() => {
                inner.absolved(&bus, promotion).await?
            }
            _ => Vec::new(),
        };
        let rules = match inner.rules(&bus).await? {
            Ok(rules) => rules,
            Err(reason) => return Ok(Gate::Refuse(reason)),
        };
        let (body, signature) = inner.believed(order).await?;
        let approvers = approvers(rules.policy.as_ref());
        let approval = inner.approval(&bus, promotion, &approvers).await?;
        let is_way_back = inner.is_way_back(promotion).await?;
        let is_condemned =
            condemned.as_ref().is_some_and(|list| list.forbids(&fingerprint(promotion), &absolved).is_some());
        let has_worked = (is_condemned || !rules.is_never_frozen())
            && !is_way_back
            && worked::has_worked(&bus, order, &inner.promote, inner.announcer.public_key()).await?;
        Ok(judge(&Facts {
            promotion,
            id: order.id,
            digest: &Digest::of(&body),
            promoted_by: &signers(&body, signature.as_deref(), &approvers)?,
            now: world::now(),
            condemned: condemned.as_ref(),
            absolved: &absolved,
            policy: rules.policy.as_ref(),
            freezes: &rules.freezes,
            lost: rules.lost,
            approval: approval.as_ref(),
            is_way_back,
            has_worked,
        }))
    }

    /// Reads the rules as soon as the bus is reached and from time to time, so that this host still knows them when the bus has lost them.
    /// Never ends.
    pub async fn keep_up(self) {
        let inner = &self.inner;
        if inner.admin.is_empty() {
            return std::future::pending().await;
        }
        inner.bus.reached().await;
        loop {
            if let Some(bus) = inner.bus.connected()
                && let Err(error) = inner.rules(&bus).await
            {
                debug!(
                    error = causes(&error),
                    "the rules of the environment cannot be read ahead; whoever needs them asks again"
                );
            }
            sleep(jittered(SWEEP_INTERVAL)).await;
        }
    }

    /// Condemns what the order runs, if the cause is of the release itself. Comes back when that is written, or after [`CONDEMN_WAIT`]; then
    /// it is tried on beside.
    pub async fn condemn(&self, order: &Order, cause: &Reason) {
        let promotion = &order.promotion;
        if promotion.intent != Intent::Promote || promotion.preview.is_some() || !blames_the_release(cause) {
            return;
        }
        let (gates, order, cause) = (self.clone(), order.clone(), cause.clone());
        let stop = self.inner.stop.clone();
        let writing = tokio::spawn(within(
            stop.run_until_cancelled_owned(async move { gates.condemn_in_time(&order, &cause).await }),
        ));
        if timeout(CONDEMN_WAIT, writing).await.is_err() {
            let Promotion { app, release, .. } = promotion;
            warn!(%app, %release, "the release is not condemned yet: the bus does not answer; this is tried again and again");
        }
    }

    async fn condemn_in_time(&self, order: &Order, cause: &Reason) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            match self.inner.write_condemned(order, cause).await {
                Ok(()) => return,
                Err(GateError::Bus(BusError::Raced { .. })) => backoff.reset(),
                Err(error @ (GateError::Announce(_) | GateError::Signature(_))) => {
                    return warn!(error = causes(&error), "a release was not condemned");
                }
                Err(_) => sleep(backoff.next_wait()).await,
            }
        }
    }
}

impl Inner {
    /// The policy and the freezes, or why they forbid everything.
    async fn rules(&self, bus: &Bus) -> Result<Result<Rules, Reason>, GateError> {
        if self.admin.is_empty() {
            return Ok(Ok(Rules::default()));
        }
        let env = &self.env;
        let subject = subject::environment_policy(env);
        let policy =
            self.policies.read(bus, &self.journal, &subject, |said| documents::policy(said, env, &self.admin)).await?;
        let policy = match policy {
            Ok(policy) => policy,
            Err(error) => {
                let hint = format!("set it anew with an admin key: `landfall policy apply FILE --env {env}`");
                return Ok(Err(documents::unreadable("policy", env, &error, hint)));
            }
        };
        let subject = subject::environment_freeze(env);
        let freezes =
            self.freezes.read(bus, &self.journal, &subject, |said| documents::freezes(said, env, &self.admin)).await?;
        match freezes {
            Ok(freezes) => {
                let lost = Lost {
                    policy: policy.as_ref().is_some_and(|policy| policy.is_lost),
                    freezes: freezes.as_ref().is_some_and(|freezes| freezes.is_lost),
                };
                let policy = policy.map(|policy| policy.document);
                let freezes = freezes.map(|freezes| freezes.document.freezes).unwrap_or_default();
                Ok(Ok(Rules { policy, freezes, lost }))
            }
            Err(error) => {
                let hint = format!("say anew what is frozen, with an admin key: `landfall unfreeze --all --env {env}`");
                Ok(Err(documents::unreadable("list of freezes", env, &error, hint)))
            }
        }
    }

    /// The condemned releases and their revision. A list that cannot be read is none: it is a memory of what failed and no wall, and the
    /// next one that is written replaces it.
    async fn condemned(&self, bus: &Bus, promotion: &Promotion) -> Result<Option<(CondemnedList, u64)>, GateError> {
        let Promotion { env, app, .. } = promotion;
        let Some(entry) = bus.entry(ROLLOUT, &subject::condemned_key(env, app)).await? else { return Ok(None) };
        let list = documents::condemned(&entry.body, env, app).unwrap_or_else(|error| {
            warn!(%app, error = causes(&error), "the list of condemned releases is not readable and counts as empty");
            CondemnedList { env: env.clone(), app: app.clone(), condemned: Vec::new() }
        });
        Ok(Some((list, entry.revision)))
    }

    async fn absolved(&self, bus: &Bus, promotion: &Promotion) -> Result<Vec<Absolution>, GateError> {
        let Promotion { env, app, .. } = promotion;
        let Some(said) = bus.last_said(&subject::condemned(env, app)).await? else { return Ok(Vec::new()) };
        let trusted: Vec<PublicKey> = self.admin.iter().chain(&self.promote).cloned().collect();
        match documents::absolutions(published(&said), env, app, &trusted) {
            Ok(absolutions) => Ok(absolutions.absolved),
            Err(error) => {
                warn!(%app, error = causes(&error), "the newest absolution is not believed, so nothing is absolved");
                Ok(Vec::new())
            }
        }
    }

    async fn approval(
        &self,
        bus: &Bus,
        promotion: &Promotion,
        approvers: &[PublicKey],
    ) -> Result<Option<Said<Approval>>, GateError> {
        if approvers.is_empty() {
            return Ok(None);
        }
        let Promotion { env, app, .. } = promotion;
        let Some(said) = bus.last_said(&subject::approved(env, app)).await? else { return Ok(None) };
        match documents::approval(published(&said), env, app, approvers) {
            Ok(approval) => Ok(Some(approval)),
            Err(error) => {
                warn!(%app, error = causes(&error), "the newest approval is not believed and counts for nothing");
                Ok(None)
            }
        }
    }

    /// The promotion's bytes and signature.
    async fn believed(&self, order: &Order) -> Result<(Vec<u8>, Option<String>), GateError> {
        let (journal, order) = (self.journal.clone(), order.clone());
        apart(async move { journal.believed(&order).await }).await?.ok_or(GateError::Unknown)
    }

    /// Whether this host ran just this before, under the number that the rollback names.
    async fn is_way_back(&self, promotion: &Promotion) -> Result<bool, GateError> {
        let Intent::Rollback { to } = promotion.intent else { return Ok(false) };
        let (journal, env, app) = (self.journal.clone(), promotion.env.clone(), promotion.app.clone());
        let committed = apart(async move { journal.committed(&env, &app, COMMITTED_MAX).await }).await?;
        let wanted = fingerprint(promotion);
        Ok(committed.iter().any(|past| past.counter == to && fingerprint(&past.promotion) == wanted))
    }

    async fn write_condemned(&self, order: &Order, cause: &Reason) -> Result<(), GateError> {
        let promotion = &order.promotion;
        let Promotion { env, app, release, counter, .. } = promotion;
        let bus = self.bus.connected().ok_or(GateError::Away)?;
        let found = self.condemned(&bus, promotion).await?;
        let (mut list, revision) =
            found.unwrap_or_else(|| (CondemnedList { env: env.clone(), app: app.clone(), condemned: Vec::new() }, 0));
        let now = world::now();
        let is_new = list.add(Condemned {
            fingerprint: fingerprint(promotion),
            counter: *counter,
            release: release.clone(),
            cause: Reason::new(cause.code, cause.message.chars().take(NOTE_MAX_CHARS).collect::<String>()),
            host: order.host.clone(),
            at: now,
        });
        if !is_new {
            return Ok(());
        }
        let body = self.announcer.condemned(&list, now)?;
        bus.write_entry(ROLLOUT, &subject::condemned_key(env, app), body.into(), revision).await?;
        info!(%app, %release, %counter, "condemned: {}", cause.message);
        Ok(())
    }
}

/// Asks the journal in a task of its own: whoever asks the rules may stop polling for a while to write into the journal itself, and would wait
/// for ever for the connection that this question was just given.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, JournalError>> + Send + 'static,
) -> Result<T, GateError> {
    Ok(tokio::spawn(within(work)).await.map_err(|_| GateError::Unknown)??)
}

fn approvers(policy: Option<&EnvironmentPolicy>) -> Vec<PublicKey> {
    let of = policy.and_then(|policy| policy.approvals.as_ref()).map(|rule| rule.of.as_slice());
    of.unwrap_or_default().iter().map(|approver| approver.key.clone()).collect()
}

fn published(said: &landfall_bus::Delivered) -> Published<'_> {
    Published { body: &said.body, signature: said.signature.as_deref() }
}
