//! `landfall-audit run`: open the ledger, reach the bus, follow both streams, and end without losing anything.

use std::error::Error;
use std::time::Duration;

use async_nats::ConnectErrorKind;
use landfall_bus::{Bus, BusError};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::follow::{FollowError, Follower, is_stopped_within};
use crate::ledger::{Ledger, LedgerError};
use crate::record::Source;
use crate::settings::RunSettings;

/// Time to commit what is in hand once the end was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// Time for the last acknowledgements to leave. A bus that is away takes none and delivers again; that is no failure.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two tries to reach the bus at first; doubles from the first to the second.
const CONNECT_RETRY_MIN: Duration = Duration::from_millis(500);
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Error)]
pub enum ServiceError {
    #[error("cannot listen for signals")]
    Signals(#[from] std::io::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("a part of the service ended unexpectedly")]
    Part(#[from] tokio::task::JoinError),
    #[error("what was in hand was not stored within {} s", limit.as_secs())]
    Drain { limit: Duration },
}

impl ServiceError {
    /// What a person can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => Some(error.hint().to_owned()),
            Self::Bus(error) => error.hint(),
            Self::Follow(error) => Some(error.hint()),
            Self::Drain { .. } => {
                Some("nothing is lost: it was not acknowledged and comes again at the next start".to_owned())
            }
            Self::Signals(_) | Self::Part(_) => None,
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServiceError`]; an interrupted bus or database is none, those are waited for.
pub async fn run(settings: RunSettings) -> Result<(), ServiceError> {
    let stop = stop_on_signal()?;
    let ledger = Ledger::prepare(&settings.database).await?;
    let ledger_id = ledger.id().await?;
    let counts = ledger.counts().await?;
    tracing::info!(
        database = %settings.database, ledger = ledger_id, releases = counts.releases, outcomes = counts.outcomes,
        rejected = counts.rejected, trusted_keys = settings.trust.0.len(), "the ledger is open"
    );
    let Some(bus) = connect(&settings, &stop).await? else {
        ledger.close().await;
        return Ok(());
    };
    let mut followers = JoinSet::new();
    for source in Source::ALL {
        let follower = Follower {
            bus: bus.clone(),
            ledger: ledger.clone(),
            ledger_id: ledger_id.clone(),
            trust: settings.trust.clone(),
            source,
            consumer: settings.consumer.clone(),
        };
        let stop = stop.clone();
        followers.spawn(async move { follower.run(&stop).await });
    }
    let ended = until_stopped(&mut followers, &stop).await;
    // The others end with the first.
    stop.cancel();
    let drained = timeout(DRAIN_TIMEOUT, drain(&mut followers)).await;
    drop(followers);
    if !matches!(timeout(FLUSH_TIMEOUT, bus.client().flush()).await, Ok(Ok(()))) {
        tracing::debug!("the last acknowledgements were not sent");
    }
    ledger.close().await;
    ended?;
    drained.unwrap_or(Err(ServiceError::Drain { limit: DRAIN_TIMEOUT }))?;
    tracing::info!("ended; everything that was acknowledged is in the ledger");
    Ok(())
}

fn stop_on_signal() -> Result<CancellationToken, ServiceError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        stopped.cancel();
    });
    Ok(stop)
}

/// `None` when stopped before the bus answered.
async fn connect(settings: &RunSettings, stop: &CancellationToken) -> Result<Option<Bus>, ServiceError> {
    let mut delay = CONNECT_RETRY_MIN;
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            connected = Bus::connect(&settings.connect) => match connected {
                Ok(bus) => return Ok(Some(bus)),
                Err(error) if is_outage(&error) => error,
                Err(error) => return Err(error.into()),
            },
        };
        tracing::warn!(
            error = with_causes(&error),
            hint = error.hint(),
            retry_ms = delay.as_millis(),
            "the bus is away; trying again"
        );
        if is_stopped_within(stop, delay).await {
            return Ok(None);
        }
        delay = (delay * 2).min(CONNECT_RETRY_MAX);
    }
}

/// Wrong credentials do not heal by themselves, a server that is away does.
fn is_outage(error: &BusError) -> bool {
    use ConnectErrorKind as Kind;
    let BusError::Connect { source, .. } = error else { return false };
    matches!(source.kind(), Kind::Dns | Kind::TimedOut | Kind::Io | Kind::MaxReconnects)
}

async fn until_stopped(
    followers: &mut JoinSet<Result<(), FollowError>>,
    stop: &CancellationToken,
) -> Result<(), ServiceError> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = followers.join_next() => Ok(ended??),
    }
}

async fn drain(followers: &mut JoinSet<Result<(), FollowError>>) -> Result<(), ServiceError> {
    while let Some(ended) = followers.join_next().await {
        ended??;
    }
    Ok(())
}

/// An error with everything below it, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        // Some errors repeat their source in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}
