#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use landfall_schema::ids::EventId;
use landfall_schema::outcome::{OutcomeKind, Reason, ReasonCode};
use tokio::time::timeout;

use super::*;
use crate::samples;

/// Longer than all retries of these tests.
const LIMIT: Duration = Duration::from_secs(20);

/// A bus that is away for the first attempts.
#[derive(Clone, Default)]
struct Bus {
    away: Arc<Mutex<u32>>,
    said: Arc<Mutex<Vec<EventId>>>,
    never: Option<EventId>,
}

impl Publish for Bus {
    async fn publish(&self, announcement: &Announcement) -> Result<(), NotPublished> {
        if self.never == Some(announcement.id) {
            return Err(NotPublished::Refused("permissions violation".to_owned()));
        }
        let mut away = self.away.lock().unwrap();
        if *away > 0 {
            *away -= 1;
            return Err(NotPublished::Now("the bus is away".to_owned()));
        }
        self.said.lock().unwrap().push(announcement.id);
        Ok(())
    }
}

fn announcement(counter: u64, settles: Option<MessageId>) -> Announcement {
    let reason = Reason::new(ReasonCode::Superseded, "why");
    let order = samples::order(counter);
    let made = samples::announcer().ended(&order, OutcomeKind::DeploySuperseded, reason, samples::now(), None).unwrap();
    Announcement { settles, ..made }
}

#[tokio::test]
async fn everything_is_said_in_order_however_long_the_bus_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).await.unwrap();
    let announcements: Vec<Announcement> = (0..100).map(|counter| announcement(counter, None)).collect();
    journal.announce(&announcements[..50], samples::now()).await.unwrap();
    let bus = Bus::default();
    *bus.away.lock().unwrap() = 4;
    let (settled, mut settles) = mpsc::unbounded_channel();
    let bell = OutboxBell::default();
    let stop = CancellationToken::new();
    let outbox = Outbox::new(journal.clone(), bus.clone(), bell.clone(), settled);
    let running = tokio::spawn(outbox.run(stop.clone()));

    journal.announce(&announcements[50..], samples::now()).await.unwrap();
    let message = MessageId::stored("m".to_owned());
    let last = announcement(1000, Some(message.clone()));
    journal.announce(std::slice::from_ref(&last), samples::now()).await.unwrap();
    bell.ring();

    let told = timeout(LIMIT, settles.recv()).await.unwrap();
    assert_eq!(told, Some(message), "told after it was published");
    let expect: Vec<EventId> = announcements.iter().chain([&last]).map(|made| made.id).collect();
    assert_eq!(*bus.said.lock().unwrap(), expect);
    assert!(!bell.is_stalled());
    stop.cancel();
    timeout(LIMIT, running).await.unwrap().unwrap();
    assert!(journal.unpublished(0, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn at_the_end_what_is_left_is_said_unless_the_bus_is_away() {
    for away in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).await.unwrap();
        let bus = Bus::default();
        *bus.away.lock().unwrap() = if away { u32::MAX } else { 0 };
        let (settled, _settles) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        journal.announce(&[announcement(1, None)], samples::now()).await.unwrap();
        stop.cancel();
        let outbox = Outbox::new(journal.clone(), bus, OutboxBell::default(), settled);
        timeout(LIMIT, outbox.run(stop)).await.unwrap();
        assert_eq!(journal.unpublished(0, 10).await.unwrap().is_empty(), !away);
    }
}

#[tokio::test]
async fn what_the_server_never_takes_does_not_hold_up_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).await.unwrap();
    let message = MessageId::stored("m".to_owned());
    let made = [announcement(1, None), announcement(2, None), announcement(3, Some(message.clone()))];
    journal.announce(&made, samples::now()).await.unwrap();
    let bus = Bus { never: Some(made[1].id), ..Bus::default() };
    let (settled, mut settles) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let outbox = Outbox::new(journal.clone(), bus.clone(), OutboxBell::default(), settled);
    let running = tokio::spawn(outbox.run(stop.clone()));
    assert_eq!(timeout(LIMIT, settles.recv()).await.unwrap(), Some(message));
    assert_eq!(*bus.said.lock().unwrap(), [made[0].id, made[2].id]);
    stop.cancel();
    timeout(LIMIT, running).await.unwrap().unwrap();
    let kept = journal.unpublished(0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.announcement.id).collect::<Vec<_>>(), [made[1].id]);
}

#[tokio::test]
async fn what_is_refused_so_often_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).await.unwrap();
    let (settled, _settles) = mpsc::unbounded_channel();
    let mut outbox = Outbox::new(journal, Bus::default(), OutboxBell::default(), settled);
    for position in [1, 2] {
        let given_up: Vec<bool> = (0..REFUSED_ATTEMPTS_MAX).map(|_| outbox.is_given_up(position)).collect();
        assert_eq!(given_up.iter().position(|given_up| *given_up), Some(REFUSED_ATTEMPTS_MAX as usize - 1));
    }
}
