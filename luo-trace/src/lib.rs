//! luo-trace: watch Linux live updates from inside the kernel, and say whether they kept their promises.
//!
//! Data flows one way: the kernel's hooks or a journal give bytes, [`decode`] makes [`event`]s of them, the model judges
//! them, and sinks show what came of it. Everything but the kernel's side and the sinks is pure.

pub mod decode;
pub mod errno;
pub mod event;
pub mod journal;
