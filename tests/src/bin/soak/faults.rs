//! What goes wrong, at random: on the hosts, and beside them in the parts that all of them use. Each fault is looked at from outside:
//! one that did not happen does not count.

pub(crate) mod hosts;
pub(crate) mod parts;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ExecutorKilled,
    ExecutorTerminated,
    EngineRestarted,
    EngineStopped,
    CutOff,
    CutOffDeaf,
    CutOffMute,
    CutOffFromAll,
    ContainerKilled,
    ContainerRemoved,
    NatsRestarted,
    NatsKilled,
    NatsAway,
    PostgresRestarted,
    PostgresAway,
    RegistryAway,
}

impl Kind {
    pub(crate) const ALL: [Self; 16] = [
        Self::ExecutorKilled,
        Self::ExecutorTerminated,
        Self::EngineRestarted,
        Self::EngineStopped,
        Self::CutOff,
        Self::CutOffDeaf,
        Self::CutOffMute,
        Self::CutOffFromAll,
        Self::ContainerKilled,
        Self::ContainerRemoved,
        Self::NatsRestarted,
        Self::NatsKilled,
        Self::NatsAway,
        Self::PostgresRestarted,
        Self::PostgresAway,
        Self::RegistryAway,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ExecutorKilled => "executor: SIGKILL, and started again",
            Self::ExecutorTerminated => "executor: SIGTERM, and started again",
            Self::EngineRestarted => "dockerd: SIGTERM, and started again",
            Self::EngineStopped => "dockerd: SIGSTOP, then SIGCONT",
            Self::CutOff => "host and NATS cut off, both ways",
            Self::CutOffDeaf => "host hears NATS no more, and is heard",
            Self::CutOffMute => "host hears NATS, and is not heard",
            Self::CutOffFromAll => "host cut off from everything",
            Self::ContainerKilled => "container: docker kill",
            Self::ContainerRemoved => "container: docker rm --force",
            Self::NatsRestarted => "NATS: SIGTERM, and started again",
            Self::NatsKilled => "NATS: SIGKILL, and started again",
            Self::NatsAway => "NATS: away for seconds",
            Self::PostgresRestarted => "PostgreSQL: immediate shutdown, and started again",
            Self::PostgresAway => "PostgreSQL: away for seconds",
            Self::RegistryAway => "registry: SIGKILL, away for seconds",
        })
    }
}

/// Waits; `false` when faults are to end.
pub(crate) async fn wait(stop: &CancellationToken, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = stop.cancelled() => false,
    }
}

/// Work that blocks its thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
