//! luo-trace: watch Linux live updates from inside the kernel, and say whether they kept their promises.
//!
//! Data flows one way: the kernel's hooks or a journal give bytes, [`event::decode`] makes [`event`]s of them, the model judges
//! them, and sinks show what came of it. Everything but the kernel's side and the sinks is pure.

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
pub mod journal;
#[cfg(feature = "agent")]
pub mod kernel;
pub mod model;
pub mod policy;
pub mod report;
#[cfg(feature = "agent")]
pub mod sink;
pub mod status;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
pub mod text;
