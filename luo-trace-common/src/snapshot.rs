//! How the agent has the program `snapshot` walk LUO's lists: what it asks for in a run, and what it is told.
//!
//! A walk takes as many runs as it needs, so that none of them is long. The agent runs [`START`] once, then [`GO_ON`] until it
//! is told [`WALKED`], and takes the records out of the ring in between; [`FINISH`] ends the walk.

/// First argument of a run: begin a walk, whose number is the second argument, and walk some of it.
pub const START: u64 = 1;
/// First argument of a run: walk some more.
pub const GO_ON: u64 = 2;
/// First argument of a run: tell how the walk went; the second argument is [`BELIEVE`], [`ABANDON`] or 0.
pub const FINISH: u64 = 3;

/// [`FINISH`]: a kernel's count that differs from what was walked is a fact, since earlier walks found the same.
pub const BELIEVE: u64 = 1;
/// [`FINISH`]: the walk was given up before its end.
pub const ABANDON: u64 = 2;

/// Result of a run: the walk is at its end.
pub const WALKED: u32 = 1 << 16;
/// Result of [`FINISH`], beside the flags of [`SnapshotEnd`](crate::events::SnapshotEnd): a count of the kernel differs from
/// what was walked, and nothing else speaks against this walk.
pub const DIFFERS: u32 = 1 << 17;
