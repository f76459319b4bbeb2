//! The end of a preview: this host takes it away by itself when its time is over, also when the daemon was off at that moment.

use std::time::Duration;

use landfall_deploy::{Effect, Evidence, Order};
use landfall_schema::Timestamp;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::promotion::{Intent, Promotion};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::{CarryOut, Worker};
use crate::causes;
use crate::hands::Context;
use crate::pace::Backoff;
use crate::world;

/// Time for the whole removal.
const REMOVAL_LIMIT: Duration = Duration::from_secs(120);
/// Between two attempts, at least and at most.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// The wall clock is looked at this often: it may be set, and a machine may sleep.
const CLOCK_LOOK_MAX: Duration = Duration::from_secs(60);

/// When the preview's time is over. Empty for what is no preview.
pub(super) struct Expiry {
    /// The newest promotion of the preview; it is what is ended.
    order: Option<Order>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Default for Expiry {
    fn default() -> Self {
        Self { order: None, backoff: Backoff::new(RETRY_MIN, RETRY_MAX), retry_at: None }
    }
}

impl Expiry {
    /// Whether nothing of a preview is here.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_none()
    }

    /// Until the time is over, and not before the next attempt is due. Cancel-safe.
    pub(super) async fn reached(&mut self) -> Order {
        let Some(order) = &self.order else { return std::future::pending().await };
        let Some(preview) = &order.promotion.preview else { return std::future::pending().await };
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
        }
        loop {
            match Duration::try_from(preview.expires_at.duration_since(world::now())) {
                Ok(left) if !left.is_zero() => sleep(left.min(CLOCK_LOOK_MAX)).await,
                Ok(_) | Err(_) => return order.clone(),
            }
        }
    }
}

/// Why nothing more is begun for this preview.
pub(super) fn is_over(promotion: &Promotion, now: Timestamp) -> Option<Reason> {
    let preview = promotion.preview.as_ref().filter(|preview| now >= preview.expires_at)?;
    if promotion.intent == Intent::Remove {
        return None;
    }
    let text = format!("the preview {} of {} ended at {:.0}", preview.name, preview.of, preview.expires_at);
    Some(Reason::new(ReasonCode::PreviewExpired, text).hint("promote it again for a new lifetime"))
}

impl<H: CarryOut> Worker<H> {
    /// What the journal knows of this preview now.
    pub(super) async fn read_expiry(&mut self) {
        let host = self.shared.announcer.host().clone();
        let env = self.shared.env.clone();
        let Some(previews) = self.shared.persist(|journal| journal.previews(&env, &host)).await else { return };
        let order = previews.into_iter().find(|order| order.promotion.app == self.app);
        self.expiry = Expiry { order, ..Expiry::default() };
    }

    /// Takes the stack away. It stays in the journal until that is done and can be told.
    pub(super) async fn remove_expired(&mut self, order: &Order) {
        let mut removal = order.clone();
        removal.promotion.intent = Intent::Remove;
        info!(app = %self.app, "the preview's time is over; it is removed");
        let began = Instant::now();
        let deadline = began + REMOVAL_LIMIT;
        let context = Context {
            bundle: None,
            former: None,
            progress: mpsc::channel(1).0,
            waiting: mpsc::channel(1).0,
            deadline,
            last_good: Vec::new(),
        };
        let work = timeout_at(deadline, self.hands.carry_out(Effect::Remove, &removal, &context));
        let result = tokio::select! {
            biased;
            result = work => result.unwrap_or_else(|_| {
                let text = format!("the removal took longer than {} s", REMOVAL_LIMIT.as_secs());
                Err(Reason::new(ReasonCode::DeadlineExceeded, text))
            }),
            // It is still in the journal, so the next start goes on.
            () = self.shared.parking.cancelled() => return,
        };
        let now = world::now();
        let (kind, message, reason) = match result {
            Ok(evidence) => (OutcomeKind::StackRemoved, ended(order, &evidence), None),
            Err(reason) => {
                let message = format!("{} is over, but was not removed: {}", self.app, reason.message);
                (OutcomeKind::StackFailed, message, Some(reason))
            }
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = Outcome {
            message,
            reason,
            duration_ms: Some(took_ms),
            ..Outcome::new(kind, &order.host, &order.promotion, order.id)
        };
        let announcement = match self.shared.announcer.outcome(outcome, now, None) {
            Ok(announcement) => announcement,
            Err(error) => return error!(app = %self.app, error = causes(&error), "an outcome cannot be written"),
        };
        let announcements = [announcement];
        if kind == OutcomeKind::StackRemoved {
            self.shared.persist(|journal| journal.forget_preview(order, &announcements, now)).await;
            self.expiry = Expiry::default();
            self.read_expiry().await;
        } else {
            self.shared.persist(|journal| journal.announce(&announcements, now)).await;
            let wait = self.expiry.backoff.next_wait();
            warn!(app = %self.app, "the preview was not removed; the next attempt is in {} s", wait.as_secs());
            self.expiry.retry_at = Some(Instant::now() + wait);
        }
    }
}

fn ended(order: &Order, evidence: &Evidence) -> String {
    let over = match &order.promotion.preview {
        Some(preview) => format!("the preview expired at {:.0}", preview.expires_at),
        None => "the preview expired".to_owned(),
    };
    match evidence {
        Evidence::Removed { what } if !what.is_empty() => format!("{over}: removed {}", what.join(", ")),
        _ => format!("{over}: nothing was there any more"),
    }
}
