//! The fleet's side of a deploy: what becomes of a rollout, judged from what its hosts have signed. No controller: every host of the plan
//! can ask these functions, and whoever wins the compare-and-set on the rollout's state has decided.
//!
//! In reading order: [`view`] is what the hosts said; [`decide`] makes the next state; [`admission`] and [`after_commit`] tell one host what a
//! state means for it.

mod decide;
mod host;
mod view;

pub use decide::{Facts, SILENT_GRACE_MS, UNWIND_LIMIT_MS, decide, first_state};
pub use host::{Admission, Verdict, admission, after_commit, proofs_needed};
pub use view::{Progress, View};
