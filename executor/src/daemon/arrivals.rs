//! What comes from the bus: judged, written down, and handed to a worker.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, Counter, EventId};
use landfall_schema::outcome::Reason;
use landfall_schema::planted::planted;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::Daemon;
use crate::announce::{AnnounceError, Announcement};
use crate::causes;
use crate::fleet::{FleetError, Missed};
use crate::intake::{self, Facts, Handled, Ignored, MessageId, PreviewFacts, Refused, Standing, Verdict};
use crate::journal::JournalError;
use crate::link::Delivery;
use crate::settle::{self, How};
use crate::site::Site;
use crate::worker::Job;
use crate::world;

/// Trouble of our own while a message is judged.
#[derive(Debug, Error)]
enum IntakeTrouble {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    #[error("what is behind a promotion that is not believed cannot be read")]
    Behind(#[from] FleetError),
}

/// The daemon does nothing else meanwhile.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// A promotion reaches the bus soon after it was made.
const FRESH_FOR: Duration = Duration::from_secs(60);

/// Whether the message was published when its event was made, which the event's id tells.
fn is_fresh(delivered: &Delivered, id: EventId) -> bool {
    let made = id.0.get_timestamp().map(|made| made.to_unix());
    let made = made.and_then(|(seconds, _)| Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
    made.is_some_and(|made| {
        Duration::try_from(delivered.published_at.duration_since(made)).is_ok_and(|age| age < FRESH_FOR)
    })
}

/// What happens to the delivered message.
enum Disposal {
    /// Until its outcome is on the bus.
    Hold(MessageId, How),
    Settle(How),
}

impl<S: Site> Daemon<S> {
    pub(super) async fn take_delivery(&mut self, Delivery { delivered, receipt }: Delivery) {
        if planted("ack_before_journal") {
            self.held.settle_now(receipt.clone(), How::Ack);
            tokio::task::yield_now().await;
        }
        match self.take(&delivered).await {
            Ok(Disposal::Hold(id, how)) => self.held.hold(id, receipt, how),
            Ok(Disposal::Settle(how)) => self.held.settle_now(receipt, how),
            Err(trouble) => {
                error!(
                    subject = delivered.subject,
                    error = causes(&trouble),
                    "a promotion was not taken; it comes again"
                );
                settle::later(receipt);
            }
        }
    }

    pub(super) async fn take_sweep(&mut self, swept: Vec<Delivered>) {
        for delivered in swept {
            if let Err(trouble) = self.take(&delivered).await {
                error!(
                    subject = delivered.subject,
                    error = causes(&trouble),
                    "a promotion was not taken; the next sweep tries again"
                );
            }
        }
    }

    /// An older promotion that the fleet runs.
    pub(super) async fn take_missed(&mut self, missed: Missed) {
        if let Err(trouble) = self.take_missed_one(&missed).await {
            let Missed { app, counter, .. } = &missed;
            error!(%app, counter = counter.0, error = causes(&trouble), "a promotion that was missed was not taken");
        }
    }

    async fn take_missed_one(&mut self, Missed { app, counter, message }: &Missed) -> Result<(), IntakeTrouble> {
        let env = &self.config.env;
        // One that came meanwhile ends first; what is missed then is looked up again.
        if self.journal.is_under_way(env, app).await? {
            self.fleet.catch_up(env, app, Counter(counter.0.saturating_add(1)));
            return Ok(());
        }
        let id = MessageId::of(message);
        if !self.journal.may_catch_up(&id).await? {
            return Ok(());
        }
        // It goes forward as seen from what runs here, which is what the counter is for.
        let runs = self.journal.committed(env, app, 1).await?.pop();
        let standing = runs.map(|good| Standing { counter: good.counter, id: EventId(Uuid::nil()) });
        match self.judge(message, standing).await? {
            Verdict::Ignore(Ignored::ForOthers(_)) => self.fleet.catch_up(env, app, *counter),
            verdict => drop(self.follow(message, id, verdict).await?),
        }
        Ok(())
    }

    /// The one way in, for the consumer's deliveries and the sweep's.
    async fn take(&mut self, delivered: &Delivered) -> Result<Disposal, IntakeTrouble> {
        let id = MessageId::of(delivered);
        match self.journal.handled(&id).await? {
            Some(Handled::Told) => {
                self.look_past(delivered).await?;
                return Ok(Disposal::Settle(How::Ack));
            }
            Some(Handled::UnderWay) => {
                self.look_past(delivered).await?;
                return Ok(Disposal::Hold(id, How::Ack));
            }
            None => {}
        }
        let standing = match intake::app_of(&delivered.subject, &self.config.env) {
            Some(app) => self.journal.standing(&self.config.env, &app).await?,
            None => None,
        };
        let mut verdict = self.judge(delivered, standing).await?;
        if let Verdict::DeadLetter { refused, .. } = &mut verdict {
            self.look_behind(delivered, refused).await?;
        }
        if let Verdict::Ignore(Ignored::ForOthers(counter)) = verdict
            && standing.is_none_or(|standing| standing.counter < counter)
        {
            self.pass_by(&delivered.subject, counter);
        }
        let is_settled = match &verdict {
            Verdict::Take(taken) => is_fresh(delivered, taken.order.id),
            Verdict::Ignore(Ignored::TakenAlready) | Verdict::Refuse { .. } => false,
            Verdict::Ignore(_) | Verdict::DeadLetter { .. } => true,
        };
        let disposal = self.follow(delivered, id, verdict).await?;
        if !is_settled {
            self.look_past(delivered).await?;
        }
        Ok(disposal)
    }

    /// Whoever may publish can say an older promotion once more, and it then stands in the register in front of the newest one. Each time that
    /// the register's message is another one, and not just made, what there is besides is looked at.
    async fn look_past(&mut self, delivered: &Delivered) -> Result<(), IntakeTrouble> {
        let env = self.config.env.clone();
        let Some(app) = intake::app_of(&delivered.subject, &env) else { return Ok(()) };
        if self.looked_past.insert(app.clone(), delivered.sequence) == Some(delivered.sequence) {
            return Ok(());
        }
        let all = match timeout(LOOK_LIMIT, self.fleet.believed_promotions(&env, &app)).await {
            Ok(Ok(all)) => all,
            // The next sweep looks again.
            Ok(Err(_)) | Err(_) => {
                debug!(%app, "what is behind the newest message of the register cannot be read yet");
                self.looked_past.remove(&app);
                return Ok(());
            }
        };
        let newest = all.into_iter().max_by_key(|(event, _)| event.data.counter);
        if let Some((_, newest)) = newest.filter(|(_, newest)| newest.sequence != delivered.sequence) {
            drop(Box::pin(self.take(&newest)).await?);
            self.looked_past.insert(app, delivered.sequence);
        }
        Ok(())
    }

    /// The register holds one message per application, and whoever may publish can hide the good one behind junk, or behind a copy of it
    /// whose refusal would count as this host's word about the original.
    async fn look_behind(&mut self, junk: &Delivered, refused: &mut Option<Refused>) -> Result<(), IntakeTrouble> {
        let Some(app) = intake::app_of(&junk.subject, &self.config.env) else { return Ok(()) };
        let behind = self.fleet.believed_promotions(&self.config.env, &app).await?;
        if let Some(claimed) = refused.as_ref().map(|refused| refused.event.id)
            && behind.iter().any(|(event, _)| event.id == claimed)
        {
            *refused = None;
        }
        if let Some((_, newest)) = behind.last() {
            // Believed as it is, it has nothing behind it.
            drop(Box::pin(self.take(newest)).await?);
        }
        Ok(())
    }

    /// The register holds nothing but this promotion for others; what this host has missed is below it.
    fn pass_by(&mut self, subject: &str, counter: Counter) {
        let Some(app) = intake::app_of(subject, &self.config.env).filter(|app| self.workers.work_on(app)) else {
            return;
        };
        // Every sweep brings it again.
        if self.passed_by.get(&app).is_some_and(|before| *before >= counter) {
            return;
        }
        self.fleet.catch_up(&self.config.env, &app, counter);
        self.passed_by.insert(app, counter);
    }

    async fn judge(&self, delivered: &Delivered, standing: Option<Standing>) -> Result<Verdict, JournalError> {
        let is_known = match intake::claimed(delivered) {
            Some(event) => self.journal.has_taken(event).await?,
            None => false,
        };
        let here = self.journal.previews(&self.config.env, &self.config.host).await?;
        let here: BTreeMap<AppName, AppName> =
            here.into_iter().filter_map(|order| Some((order.promotion.app, order.promotion.preview?.of))).collect();
        let facts = Facts {
            host: &self.config.host,
            env: &self.config.env,
            labels: &self.config.labels,
            trusted: &self.config.trust.promote,
            apps: &self.config.apps,
            previews: PreviewFacts { takes: &self.config.previews, here: &here },
            now: world::now(),
            standing,
            is_known,
        };
        Ok(intake::judge(delivered, &facts))
    }

    /// Does what the verdict says.
    async fn follow(
        &mut self,
        delivered: &Delivered,
        id: MessageId,
        verdict: Verdict,
    ) -> Result<Disposal, IntakeTrouble> {
        let now = world::now();
        match verdict {
            Verdict::Ignore(why) => {
                match why {
                    Ignored::NotOnThisHost => debug!(subject = delivered.subject, "not an application of this host"),
                    Ignored::ForOthers(_) => debug!(subject = delivered.subject, "for other hosts"),
                    Ignored::TakenAlready => debug!(subject = delivered.subject, "taken before"),
                }
                Ok(Disposal::Settle(How::Ack))
            }
            Verdict::Take(taken) => {
                self.journal.take(&taken, now).await?;
                if !self.workers.hand_over(Job::new(*taken)) {
                    warn!(
                        subject = delivered.subject,
                        "nobody works on this; the journal takes it up at the next start"
                    );
                }
                Ok(Disposal::Hold(id, How::Ack))
            }
            Verdict::Refuse { reason, refused } => {
                warn!(subject = delivered.subject, code = reason.code.as_str(), "refused: {}", reason.message);
                let outcome = self.refusal(delivered, &refused, &reason, now)?;
                self.refuse(&id, &reason, vec![outcome], now).await?;
                Ok(Disposal::Hold(id, How::Ack))
            }
            Verdict::DeadLetter { reason, refused } => {
                warn!(
                    subject = delivered.subject,
                    sequence = delivered.sequence,
                    code = reason.code.as_str(),
                    "not believed: {}",
                    reason.message
                );
                let mut announcements = vec![self.announcer.dead_letter(delivered, reason.clone(), now)?];
                if let Some(refused) = refused {
                    announcements.push(self.refusal(delivered, &refused, &reason, now)?);
                }
                self.refuse(&id, &reason, announcements, now).await?;
                Ok(Disposal::Hold(id, How::Term))
            }
        }
    }

    fn refusal(
        &self,
        delivered: &Delivered,
        refused: &Refused,
        reason: &Reason,
        now: Timestamp,
    ) -> Result<Announcement, AnnounceError> {
        self.announcer.refused(refused, reason.clone(), now, delivered.traceparent.as_deref())
    }

    /// The last of the announcements settles the message.
    async fn refuse(
        &self,
        id: &MessageId,
        reason: &Reason,
        mut announcements: Vec<Announcement>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        if let Some(last) = announcements.last_mut() {
            last.settles = Some(id.clone());
        }
        self.journal.refuse(id, reason.code, &announcements, now).await?;
        self.bell.ring();
        Ok(())
    }
}
