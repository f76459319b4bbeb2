//! What no process controls: the time of day, chance, and its own end. In simulation all three are the simulator's.

use landfall_schema::Timestamp;
use landfall_schema::ids::EventId;

/// The wall clock.
pub fn now() -> Timestamp {
    #[cfg(feature = "simulation")]
    if let Some(world) = current() {
        return world.now();
    }
    Timestamp::now()
}

/// An id that nothing else has, and that sorts by the time of its making.
pub fn new_id() -> EventId {
    #[cfg(feature = "simulation")]
    if let Some(world) = current() {
        return world.new_id();
    }
    EventId(uuid::Uuid::now_v7())
}

/// Any number.
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    #[cfg(feature = "simulation")]
    if let Some(world) = current() {
        return world.random();
    }
    RandomState::new().build_hasher().finish()
}

/// Belongs to the process that starts it, and ends with it.
#[cfg(not(feature = "simulation"))]
pub fn within<F: Future>(task: F) -> F {
    task
}

#[cfg(feature = "simulation")]
pub use simulated::{Step, World, current, live, reaches, within};

#[cfg(feature = "simulation")]
mod simulated {
    use std::sync::Arc;

    use landfall_schema::Timestamp;
    use landfall_schema::ids::EventId;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    /// A point at which a process may end.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Step {
        /// Of the journal.
        BeforeWrite(&'static str),
        AfterWrite(&'static str),
        BeforeEffect(&'static str),
        AfterEffect(&'static str),
    }

    /// The machine that a simulated process runs on.
    pub trait World: Send + Sync {
        fn now(&self) -> Timestamp;
        fn new_id(&self) -> EventId;
        fn random(&self) -> u64;
        /// Cancelled when the process is ended, with everything that belongs to it.
        fn ending(&self) -> CancellationToken;
        /// All that belongs to the process.
        fn parts(&self) -> TaskTracker;
        /// Told that the process has come here; it may be over then.
        fn reached(&self, step: Step);
        /// Where what its disk answers is waited for.
        fn disk(&self) -> &tokio::runtime::Runtime;
        /// Why its disk does not take this write.
        fn disk_trouble(&self, what: &str) -> Option<std::io::Error>;
    }

    tokio::task_local! {
        static WORLD: Arc<dyn World>;
    }

    /// The machine of whoever asks; `None` outside of a simulation.
    pub fn current() -> Option<Arc<dyn World>> {
        WORLD.try_with(Arc::clone).ok()
    }

    /// Runs a process, or a part of one, on a simulated machine. `None` when the process was ended.
    pub fn live<F: Future>(world: Arc<dyn World>, work: F) -> impl Future<Output = Option<F::Output>> {
        let (ending, parts) = (world.ending(), world.parts());
        WORLD.scope(world, parts.track_future(ending.run_until_cancelled_owned(work)))
    }

    /// Belongs to the process that starts it, and ends with it.
    pub fn within<F: Future>(task: F) -> impl Future<Output = F::Output> {
        let world = current();
        async move {
            let Some(world) = world else { return task.await };
            match live(world, task).await {
                Some(done) => done,
                // Its process is over, and with it whoever waits for this.
                None => std::future::pending().await,
            }
        }
    }

    /// Says that the process has come to this step. Returns only if it goes on.
    pub async fn reaches(step: Step) {
        let Some(world) = current() else { return };
        world.reached(step);
        if world.ending().is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}
