//! Where records come from, and what never became one.

use luo_trace_common::events::HooksBlind;

/// Where records come from, in their order.
pub trait Source {
    /// Gives every record there is now to `consume`, at most `limit`; returns how many there were.
    fn take(&mut self, limit: usize, consume: impl FnMut(&[u8])) -> usize;

    /// What was lost until now.
    fn losses(&mut self) -> Losses;
}

/// What never became a record, since the source began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events for which there was no room: later records tell of them, too.
    pub dropped: u64,
    /// Programs that the kernel skipped: no record tells of them.
    pub missed: u64,
    /// Calls of processes that the kernel does not let load an image: no record tells of them, and none is missed.
    pub denied: u64,
    /// The hooks that see nothing now, or that may have seen nothing since this was read before.
    pub blind: HooksBlind,
    /// When this was read, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
}
