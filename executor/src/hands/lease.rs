//! Which host migrates a database: a lease on the bus, taken and renewed by compare-and-set, that expires when its holder is silent. It is
//! only a choice; what excludes is the database itself ([`super::fence`]).
//!
//! No clock is compared: a lease has expired when this host saw no new revision of it for [`LEASE_EXPIRY`] of its own monotonic time.

mod judge;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use landfall_deploy::Order;
use landfall_schema::ids::{Counter, HostName, ServiceName};
use landfall_schema::lease::{LEASE_EXPIRY, LEASE_RENEWED, LeaseDone, LeasePhase, MigrationLease, Place};
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::PublicKey;
use landfall_schema::subject;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::{BundleSource, Committed};
use crate::pace::jittered;
use judge::{Turn, Word, judge};
use trust::Trusted;

pub(crate) use judge::older;

/// A change of the lease is heard; this often it is looked at without one, since a word can be missed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Between two attempts while the bus is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long a host whose deploy concerns no other tries to reach the bus before it goes on without a lease, or without having told how its
/// migration ended.
const ALONE_WAIT: Duration = Duration::from_secs(3);

/// A lease as it stands on the bus.
#[derive(Debug, Clone)]
pub struct Kept {
    pub revision: u64,
    /// `None` for an entry that is no lease, or that was changed after it was signed.
    pub lease: Option<MigrationLease>,
    /// Whose signature it has; nothing is said of whether that key is trusted.
    pub signer: Option<PublicKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseTrouble {
    /// Somebody else was first.
    Raced,
    /// The bus does not answer; why.
    Away(String),
}

/// Where leases are kept.
pub trait Leases: Send + Sync {
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Kept>, LeaseTrouble>>;

    /// Signed by this host. Returns the new revision; `expected` 0 is for an entry that does not exist.
    fn write<'a>(
        &'a self,
        key: &'a str,
        lease: &'a MigrationLease,
        expected: u64,
    ) -> BoxFuture<'a, Result<u64, LeaseTrouble>>;

    /// Ticks when the lease changes; `None` when that cannot be heard at the moment.
    fn hear<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<BoxStream<'static, ()>>>;

    fn is_own_key(&self, key: &PublicKey) -> bool;

    /// Whether the key may promote, and so may say that a schema is in order.
    fn may_promote(&self, key: &PublicKey) -> bool;
}

/// What is to be migrated, and on whose behalf.
pub struct Claim<'a> {
    pub order: &'a Order,
    pub service: &'a ServiceName,
    /// The database's name in the settings, or application and service.
    pub database: &'a str,
    /// Every host has a database of this name of its own.
    pub is_hosts_own: bool,
    /// Whether somebody who takes over from a holder that vanished can find out how far it came: the database tells.
    pub can_be_told: bool,
    /// Whether what this host began before can be found again, when nobody knows how it ended: its container, or the database's own record.
    pub may_resume: bool,
    /// Releases that this host keeps: their hosts are no strangers.
    pub kept: &'a [Committed],
    pub waiting: &'a mpsc::Sender<String>,
    pub deadline: Instant,
}

/// Whose turn it is.
pub enum Lease {
    Ours(Box<Held>),
    /// There is no lease to be had, and nobody who would need one.
    Without,
    DoneBy(DoneBy),
}

/// Migrations that came to a good end elsewhere, or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoneBy {
    pub host: HostName,
    pub applied: Vec<AppliedMigration>,
    /// Of the newer promotion that they belong to, if they are not this one's.
    pub newer: Option<Counter>,
}

/// A lease that this host holds, and gives back with [`Leasing::settle`].
pub struct Held {
    key: String,
    lease: MigrationLease,
    revision: u64,
    begun: Begun,
}

/// How a lease came to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nobody had it.
    Free,
    /// Another host had it, and was silent for too long.
    TakenOver,
    /// Somebody looked after an unknown end, and says that the schema is in order.
    Resolved,
    /// This host had begun this very migration before.
    Resumed,
}

impl Held {
    pub fn begun(&self) -> Begun {
        self.begun
    }
}

/// How a migration ended, for those who wait.
pub enum Ended<'a> {
    Done(&'a [AppliedMigration]),
    Failed(&'a Reason),
}

impl Claim<'_> {
    fn key(&self) -> String {
        let host = self.is_hosts_own.then_some(&self.order.host);
        subject::migration_key(&self.order.promotion.env, self.database, host)
    }

    fn fresh(&self) -> MigrationLease {
        let promotion = &self.order.promotion;
        MigrationLease {
            env: promotion.env.clone(),
            database: self.database.to_owned(),
            app: promotion.app.clone(),
            counter: promotion.counter,
            release: promotion.release.clone(),
            promotion: self.order.id,
            service: self.service.clone(),
            holder: self.order.host.clone(),
            phase: LeasePhase::Running,
            done: Default::default(),
        }
    }

    pub fn place(&self) -> Place {
        Place { counter: self.order.promotion.counter, promotion: self.order.id }
    }

    fn is_ours(&self, lease: &MigrationLease) -> bool {
        lease.holder == self.order.host && lease.promotion == self.order.id && lease.service == *self.service
    }

    fn concerns_others(&self) -> bool {
        self.order.promotion.plan.is_coordinated() && !self.is_hosts_own
    }

    /// What somebody has to do before anything migrates this database again.
    pub(crate) fn resolve_hint(&self) -> String {
        self.hint_with("")
    }

    /// The same, for a lease that does not say that somebody has to.
    fn force_hint(&self) -> String {
        self.hint_with(" --force")
    }

    fn hint_with(&self, option: &str) -> String {
        let Self { database, order, .. } = self;
        let host = if self.is_hosts_own { format!(" --host {}", order.host) } else { String::new() };
        format!(
            "look at the database and at the migrator's container, put the schema in order, say so with `landfall migration resolve {database} --env {}{host}{option}`, and promote again",
            order.promotion.env
        )
    }

    pub(crate) fn again_hint(&self) -> String {
        let Promotion { env, app, .. } = &self.order.promotion;
        format!("a new promotion migrates: `landfall promote {app} --env {env} --wait`")
    }

    fn told_away(&self, why: &str) -> Reason {
        let message =
            format!("migrating {}: the lease that chooses the host could not be had in time: {why}", self.database);
        Reason::new(ReasonCode::MigrationFailed, message)
            .hint("is the NATS server up, and may this host read and write the bucket of locks? `landfall-executor --check` tells more; then promote again")
    }
}

/// One host's part in choosing who migrates.
pub struct Leasing {
    /// Without them no other host is asked.
    pub leases: Option<Arc<dyn Leases>>,
    pub bundles: Arc<dyn BundleSource>,
}

impl Leasing {
    /// Waits until this host may migrate, or somebody else has.
    ///
    /// # Errors
    /// How it failed elsewhere; that nobody knows how it ended; or that there was no lease until the deadline.
    pub async fn lease(&self, claim: &Claim<'_>) -> Result<Lease, Reason> {
        let Some(leases) = &self.leases else { return Ok(Lease::Without) };
        let trusted = self.trusted(claim).await?;
        let key = claim.key();
        let give_up =
            if claim.concerns_others() { claim.deadline } else { claim.deadline.min(Instant::now() + ALONE_WAIT) };
        let mut watch = Watch::default();
        loop {
            let why = match self.try_lease(claim, leases.as_ref(), &key, &trusted, &mut watch).await {
                Ok(Some(lease)) => return Ok(lease),
                Ok(None) => {
                    watch.next(leases.as_ref(), &key, claim.deadline).await;
                    if Instant::now() >= claim.deadline {
                        let who = watch.holder.as_ref().map_or("another host".to_owned(), ToString::to_string);
                        let message = format!("migrating {}: {who} did not come to an end in time", claim.database);
                        return Err(Reason::new(ReasonCode::MigrationFailed, message)
                            .hint("raise deadline_ms in the service's x-landfall settings if it needs longer"));
                    }
                    continue;
                }
                Err(Stop::Reason(reason)) => return Err(*reason),
                Err(Stop::Away(why)) => why,
            };
            if Instant::now() + RETRY_INTERVAL < give_up {
                sleep(RETRY_INTERVAL).await;
            } else if claim.concerns_others() {
                return Err(claim.told_away(&why));
            } else {
                warn!(
                    database = claim.database,
                    why, "migrating without a lease; no other host is part of this deploy"
                );
                return Ok(Lease::Without);
            }
        }
    }

    /// `None` while somebody else has it.
    async fn try_lease(
        &self,
        claim: &Claim<'_>,
        leases: &dyn Leases,
        key: &str,
        trusted: &Trusted,
        watch: &mut Watch,
    ) -> Result<Option<Lease>, Stop> {
        let kept = leases.read(key).await?;
        let expired = watch.is_expired(kept.as_ref());
        let revision = kept.as_ref().map_or(0, |kept| kept.revision);
        let word = |signer: Option<&PublicKey>, lease: &MigrationLease| trusted.word(leases, signer, lease);
        let turn = judge(claim, kept.as_ref(), word, expired);
        if let (Turn::Take { begun: Begun::Free, .. }, Some(Kept { lease: Some(lease), signer, .. })) = (&turn, &kept)
            && word(signer.as_ref(), lease) == Word::Strange
        {
            warn!(
                database = claim.database,
                holder = %lease.holder,
                app = %lease.app,
                counter = %lease.counter,
                "a host whose key no plan of this host names was the last to migrate; what it tells is not believed, and the migrations are run"
            );
        }
        match turn {
            Turn::Wait { holder, on } => {
                if watch.tells(&on) {
                    drop(claim.waiting.try_send(on));
                }
                watch.holder = Some(holder);
                Ok(None)
            }
            Turn::DoneBy(done) => Ok(Some(Lease::DoneBy(done))),
            Turn::Stop(reason) => Err(Stop::Reason(Box::new(reason))),
            Turn::Halt { lease, reason } => match leases.write(key, &lease, revision).await {
                Ok(_) => Err(Stop::Reason(Box::new(reason))),
                Err(LeaseTrouble::Raced) => Ok(None),
                Err(LeaseTrouble::Away(why)) => Err(Stop::Away(why)),
            },
            Turn::Take { lease, begun } => {
                match leases.write(key, &lease, revision).await {
                    Ok(revision) => {
                        let key = key.to_owned();
                        Ok(Some(Lease::Ours(Box::new(Held { key, lease, revision, begun }))))
                    }
                    // Whoever was first is looked at.
                    Err(LeaseTrouble::Raced) => Ok(None),
                    Err(LeaseTrouble::Away(why)) => Err(Stop::Away(why)),
                }
            }
        }
    }

    /// Renews the lease while the work goes on, and ends the work when the lease is lost.
    pub async fn while_held<T>(
        &self,
        held: &mut Held,
        claim: &Claim<'_>,
        work: impl Future<Output = Result<T, Reason>>,
    ) -> Result<T, Reason> {
        let Some(leases) = &self.leases else { return work.await };
        tokio::select! {
            biased;
            done = work => done,
            lost = renew(leases.as_ref(), held, claim) => Err(lost),
        }
    }

    /// Tells the others how it ended. What cannot be told is found out by them: in the database, or not at all, and then they halt.
    pub async fn settle(&self, held: Held, claim: &Claim<'_>, ended: Ended<'_>) {
        let Some(leases) = &self.leases else { return };
        let Held { key, mut lease, mut revision, .. } = held;
        lease.phase = match ended {
            Ended::Done(applied) => {
                lease.remember(LeaseDone {
                    promotion: lease.promotion,
                    counter: lease.counter,
                    by: lease.holder.clone(),
                    applied: applied.to_vec(),
                });
                LeasePhase::Done
            }
            Ended::Failed(reason) if reason.code == ReasonCode::MigrationUnknown => {
                LeasePhase::Unknown { reason: bounded(reason) }
            }
            Ended::Failed(reason) => LeasePhase::Failed { reason: bounded(reason) },
        };
        let give_up = Instant::now() + if claim.concerns_others() { LEASE_EXPIRY } else { ALONE_WAIT };
        loop {
            let trouble = match leases.write(&key, &lease, revision).await {
                Ok(_) => return,
                Err(LeaseTrouble::Raced) => match leases.read(&key).await {
                    Ok(Some(kept)) if kept.lease.as_ref().is_some_and(|lease| claim.is_ours(lease)) => {
                        revision = kept.revision;
                        continue;
                    }
                    Ok(_) => return debug!(key, "the lease has another holder; it was not settled"),
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            if Instant::now() >= give_up {
                return warn!(key, ?trouble, "how the migration ended could not be told to the other hosts");
            }
            sleep(RETRY_INTERVAL).await;
        }
    }
}

/// A lease has at most one reason in it; the logs are in the holder's own outcome.
fn bounded(reason: &Reason) -> Reason {
    const MESSAGE_MAX_CHARS: usize = 1_000;
    let message = reason.message.chars().take(MESSAGE_MAX_CHARS).collect::<String>();
    Reason { code: reason.code, message, hint: reason.hint.clone(), logs: Vec::new() }
}

/// Returns only when the lease is lost.
async fn renew(leases: &dyn Leases, held: &mut Held, claim: &Claim<'_>) -> Reason {
    loop {
        sleep(LEASE_RENEWED).await;
        match leases.write(&held.key, &held.lease, held.revision).await {
            Ok(revision) => held.revision = revision,
            // The database's own lock and fence go on excluding; the lease is renewed when the bus is back.
            Err(LeaseTrouble::Away(why)) => debug!(key = held.key, why, "the lease was not renewed"),
            Err(LeaseTrouble::Raced) => match leases.read(&held.key).await {
                Err(trouble) => debug!(key = held.key, ?trouble, "the lease cannot be read"),
                // Either our own word whose answer was lost, or somebody who had given us up.
                Ok(Some(kept)) if kept.lease.as_ref().is_some_and(|lease| claim.is_ours(lease)) => {
                    held.revision = kept.revision;
                }
                Ok(kept) => {
                    let by = kept.and_then(|kept| kept.lease).map_or("nobody".to_owned(), |l| l.holder.to_string());
                    let message = format!(
                        "migrating {}: this host was silent for too long, and {by} has the lease now",
                        claim.database
                    );
                    return Reason::new(ReasonCode::MigrationFailed, message).hint(format!(
                        "was the host asleep, or cut off from the bus? `landfall migration show {} --env {}` tells who migrates",
                        claim.database, claim.order.promotion.env
                    ));
                }
            },
        }
    }
}

enum Stop {
    Reason(Box<Reason>),
    Away(String),
}

impl From<LeaseTrouble> for Stop {
    fn from(trouble: LeaseTrouble) -> Self {
        match trouble {
            LeaseTrouble::Raced => Self::Away("somebody else was first".to_owned()),
            LeaseTrouble::Away(why) => Self::Away(why),
        }
    }
}

/// What this host saw of a lease over time.
#[derive(Default)]
struct Watch {
    revision: u64,
    since: Option<Instant>,
    told: Option<String>,
    holder: Option<HostName>,
    heard: Option<BoxStream<'static, ()>>,
}

impl Watch {
    /// Whether this very revision was seen [`LEASE_EXPIRY`] ago.
    fn is_expired(&mut self, kept: Option<&Kept>) -> bool {
        let revision = kept.map_or(0, |kept| kept.revision);
        let since = match self.since {
            Some(since) if self.revision == revision => since,
            _ => Instant::now(),
        };
        (self.revision, self.since) = (revision, Some(since));
        since.elapsed() >= LEASE_EXPIRY
    }

    /// Whether this is news.
    fn tells(&mut self, on: &str) -> bool {
        let is_new = self.told.as_deref() != Some(on);
        self.told = Some(on.to_owned());
        is_new
    }

    /// Until it is time to look again.
    async fn next(&mut self, leases: &dyn Leases, key: &str, deadline: Instant) {
        if self.heard.is_none() {
            self.heard = leases.hear(key).await;
            // What changed before is not heard, so it is looked at once more.
            if self.heard.is_some() {
                return;
            }
        }
        let look = self.since.map_or_else(Instant::now, |since| since + LEASE_EXPIRY);
        let look = look.max(Instant::now() + Duration::from_millis(50)).min(Instant::now() + jittered(LOOK_INTERVAL));
        let until = look.min(deadline);
        match &mut self.heard {
            Some(heard) => {
                if let Ok(None) = timeout_at(until, heard.next()).await {
                    self.heard = None;
                    sleep_until(until).await;
                }
            }
            None => sleep_until(until).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_a_lease_is_cut() {
        for past in [0, 1] {
            let reason = Reason::new(ReasonCode::MigrationFailed, "é".repeat(1_000 + past));
            assert_eq!(bounded(&reason).message, "é".repeat(1_000));
        }
    }
}
