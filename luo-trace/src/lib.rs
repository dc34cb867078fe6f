//! luo-trace: watch Linux live updates from inside the kernel, and say whether they kept their promises.
//!
//! Data flows one way: the kernel's hooks or a journal give bytes, [`event::decode`] makes [`event`]s of them, the model judges
//! them, and sinks show what came of it. Everything but the kernel's side and the sinks is pure.
//!
//! - [`event`]: events, how records become events, and where records come from;
//! - [`model`]: what LUO holds, the invariants, and the findings;
//! - [`input`]: opening files that a user names;
//! - [`journal`]: one boot's record on disk, over a serial line, and in memory that a kexec keeps;
//! - [`chain`]: several boots joined: what left, what arrived, the timeline of each update;
//! - [`policy`]: what may pass on a host, and what its operators order;
//! - [`image`]: what the next kernel will take, read from its image;
//! - [`expect`] and [`report`]: what a user expects of recorded updates, and their story;
//! - [`status`]: the state of a host, in one piece;
//! - [`text`]: words and numbers as people read and write them.
//!
//! With the feature `port` there is also the agent's HTTP port, `sink::web`, for the tests and fuzzers of it alone.
//!
//! With the feature `agent` there are also `kernel` (the only room that knows aya), `agent` (what runs on a host), `sink` (what
//! leaves it), `host`, `commands` and `exit`. `tests/house.rs` has the table of which room may import which.

#[cfg(feature = "agent")]
pub mod agent;
pub mod chain;
#[cfg(feature = "agent")]
pub mod commands;
pub mod event;
#[cfg(feature = "agent")]
pub mod exit;
pub mod expect;
#[cfg(feature = "agent")]
pub mod host;
pub mod image;
pub mod input;
pub mod journal;
#[cfg(feature = "agent")]
pub mod kernel;
pub mod model;
pub mod policy;
pub mod report;
#[cfg(feature = "port")]
pub mod sink;
pub mod status;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
pub mod text;
