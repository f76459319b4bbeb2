//! The one way from the journal's questions to its file. In simulation the file belongs to a simulated machine: it may be full, and the
//! machine may lose its power before a write or after it.

use super::JournalError;
#[cfg(not(feature = "simulation"))]
use crate::failpoint::failpoint;

/// Asks the journal.
#[cfg(not(feature = "simulation"))]
pub(super) async fn read<T>(work: impl Future<Output = Result<T, JournalError>> + Send) -> Result<T, JournalError> {
    work.await
}

/// Changes the journal. `what` names the write, for whoever wants to know at which of them a process ended.
#[cfg(not(feature = "simulation"))]
pub(super) async fn write<T>(
    _what: &'static str,
    work: impl Future<Output = Result<T, JournalError>> + Send,
) -> Result<T, JournalError> {
    failpoint!("journal.{_what}.before");
    let written = work.await;
    failpoint!("journal.{_what}.after");
    written
}

#[cfg(feature = "simulation")]
pub(super) use simulated::{read, write};

#[cfg(feature = "simulation")]
mod simulated {
    use super::JournalError;
    use crate::world::{Step, World, current, reaches};

    pub(crate) async fn read<T: Send>(
        work: impl Future<Output = Result<T, JournalError>> + Send,
    ) -> Result<T, JournalError> {
        match current() {
            Some(world) => at_once(world.as_ref(), work),
            None => work.await,
        }
    }

    pub(crate) async fn write<T: Send>(
        what: &'static str,
        work: impl Future<Output = Result<T, JournalError>> + Send,
    ) -> Result<T, JournalError> {
        let Some(world) = current() else { return work.await };
        reaches(Step::BeforeWrite(what)).await;
        if let Some(source) = world.disk_trouble(what) {
            return Err(JournalError::Query { what, source: source.into() });
        }
        let written = at_once(world.as_ref(), work);
        reaches(Step::AfterWrite(what)).await;
        written
    }

    /// SQLite answers from a thread of its own. Nothing else happens until it has: the order of events is the same each time, and no
    /// simulated time passes.
    fn at_once<T: Send>(world: &dyn World, work: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| {
            let answered = scope.spawn(|| world.disk().block_on(work)).join();
            answered.unwrap_or_else(|defect| std::panic::resume_unwind(defect))
        })
    }
}
