//! Bugs that are planted on purpose, to see whether the simulation finds them. Without the feature `planted` there are none, and nothing of
//! this is compiled in.

/// Whether this bug is planted at the moment.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use sown::{plant, planted};

#[cfg(feature = "planted")]
mod sown {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants one bug on this thread, or (`None`) none.
    pub fn plant(bug: Option<&'static str>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted at the moment.
    pub fn planted(bug: &str) -> bool {
        PLANTED.get() == Some(bug)
    }
}
