//! luo-trace: watch Linux live updates from inside the kernel, and say whether they kept their promises.
//!
//! Data flows one way: the kernel's hooks or a journal give bytes, [`decode`] makes [`event`]s of them, the model judges
//! them, and sinks show what came of it. Everything but the kernel's side and the sinks is pure.

pub mod btf;
#[cfg(feature = "agent")]
pub mod carry;
pub mod chain;
pub mod checks;
#[cfg(feature = "agent")]
pub mod client;
pub mod command_line;
#[cfg(feature = "agent")]
pub mod commands;
pub mod decode;
pub mod errno;
pub mod event;
#[cfg(feature = "agent")]
pub mod exit;
pub mod expect;
#[cfg(feature = "agent")]
pub mod host;
pub mod image;
pub mod journal;
pub mod judge;
#[cfg(feature = "agent")]
pub mod kernel;
#[cfg(feature = "agent")]
pub mod live;
pub mod model;
pub mod orders;
#[cfg(feature = "agent")]
pub mod owners;
#[cfg(feature = "agent")]
pub mod pipeline;
pub mod policy;
pub mod report;
#[cfg(feature = "agent")]
pub mod sink;
pub mod status;
#[cfg(feature = "agent")]
pub mod target;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
pub mod timeline;
mod written;
